//! Checkpoints that the program itself asks for, by /dev/cairn.

use std::sync::Arc;

use super::orders::{Asker, Wanted};
use crate::guest::app::files::{Request, WholeCheckpoints};

impl WholeCheckpoints for Asker {
    fn ask(&self, request: Request) {
        self.order(Wanted::Program(request));
    }
}

/// Of a program that was brought back to run without further checkpoints. It may be in the midst of asking.
#[derive(Debug)]
struct NoMore;

impl WholeCheckpoints for NoMore {
    fn ask(&self, request: Request) {
        request.answer(Err("this run takes no further checkpoints (cairn restore --no-checkpoints)"));
    }
}

/// Whom a program asks; nobody where there are no checkpoints and never were.
pub(crate) fn for_program(asker: Option<Asker>, was_brought_back: bool) -> Option<Arc<dyn WholeCheckpoints>> {
    match asker {
        Some(asker) => Some(Arc::new(asker)),
        None if was_brought_back => Some(Arc::new(NoMore)),
        None => None,
    }
}
