//! Guest program: takes checkpoints, says so, and waits for its input to end.

use std::io::Read;

use cairn_guest::{Error, Session};

fn main() -> Result<(), Error> {
    let mut session = Session::open()?;
    let table = session.region::<u64>("table", 1 << 16)?;
    let mut last = None;
    for round in 0..3 {
        session.slice_mut(&table)[round * 1000] = 1;
        last = Some(session.checkpoint()?);
    }
    if let Some(id) = last {
        session.rollback(id)?;
    }
    println!("ready");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("the end of the input");
    Ok(())
}
