//! The tree of retained checkpoints.

use cairn_abi::reply::CheckpointFigures;
#[cfg(doc)]
use cairn_abi::reply::SessionFigures;

use super::Session;
use crate::error::Error;

impl Session {
    /// The retained checkpoints, oldest first, each with its parent: a tree, of which the checkpoint that memory
    /// derives from is [`SessionFigures::current`]. A parent may have been released or evicted, and so not be
    /// in the list. Not for the hot path.
    ///
    /// ```
    /// # fn main() -> Result<(), cairn_guest::Error> {
    /// let mut session = cairn_guest::Session::open()?;
    /// let root = session.checkpoint()?;
    /// let left = session.checkpoint()?;
    /// session.rollback(root)?;
    /// let right = session.checkpoint()?;
    /// let tree = session.checkpoints()?;
    /// assert_eq!(tree.iter().map(|node| node.id).collect::<Vec<_>>(), [root, left, right]);
    /// assert!(tree[1..].iter().all(|node| node.parent == Some(root)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::OtherProcess`], [`Error::System`].
    pub fn checkpoints(&mut self) -> Result<Vec<CheckpointFigures>, Error> {
        self.own()?;
        self.backend.checkpoints().map_err(|failure| self.explain(failure, None))
    }
}
