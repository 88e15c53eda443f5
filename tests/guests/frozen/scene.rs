//! A region whose checkpoint is in the making.

use cairn_guest::{CheckpointId, EngineKind, Error, Region, Session, Ticket};
use cairn_tests::pages::{PAGE, Pages};

/// Pages of the region: so many that copying takes longer than a few requests.
pub(crate) const PAGES: usize = 4096;
/// Bytes of the region.
pub(crate) const BYTES: usize = PAGES * PAGE;

/// A region all of which is written, with a checkpoint of what it was before.
pub(crate) struct Scene {
    pub(crate) session: Session,
    pub(crate) region: Region<u8>,
    /// The checkpoint of [`old`](fill).
    pub(crate) before: CheckpointId,
    /// What the region was when the checkpoint was begun.
    pub(crate) frozen: Vec<u8>,
    /// What it must be now.
    pub(crate) live: Vec<u8>,
    /// The region's memory; it goes after the session.
    pub(crate) memory: Pages,
}

/// Fills `bytes` with what says where it is and of which version.
pub(crate) fn fill(bytes: &mut [u8], version: u8) {
    for (page, bytes) in bytes.chunks_mut(PAGE).enumerate() {
        bytes.fill(version);
        bytes[..8].copy_from_slice(&(page as u64 + 1).to_le_bytes());
        bytes[PAGE - 1] = version.wrapping_add(1);
    }
}

/// What [`fill`] makes of a region.
fn filled(version: u8) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    fill(&mut bytes, version);
    bytes
}

impl Scene {
    pub(crate) fn new() -> Result<Self, Error> {
        let mut session = Session::open()?;
        assert_eq!(session.engine(), EngineKind::Cairn);
        let memory = Pages::anonymous(PAGES).expect("memory");
        let start =
            std::ptr::with_exposed_provenance_mut(usize::try_from(memory.address()).expect("an address"));
        // SAFETY: the mapping just made. It goes after the session, or what takes it away before is what is tested, and
        // then the region isn't used any more.
        let region = unsafe { session.adopt("frozen", std::slice::from_raw_parts_mut(start, BYTES))? };
        fill(session.slice_mut(&region), 1);
        let before = session.checkpoint()?;
        fill(session.slice_mut(&region), 2);
        let frozen = session.slice(&region).to_vec();
        Ok(Self { session, region, before, live: frozen.clone(), frozen, memory })
    }

    /// Begins the checkpoint. Answers its ticket, and whether it is in the making now.
    pub(crate) fn begin(&mut self) -> Result<(Ticket, bool), Error> {
        let ticket = self.session.checkpoint_async()?;
        let done = self.session.is_done(&ticket)?;
        Ok((ticket, !done))
    }

    /// Where byte `at` of the region is.
    pub(crate) fn at(&self, at: usize) -> *mut u8 {
        place(&self.memory, at)
    }

    /// The checkpoint holds what was frozen, the one before what was before, and live memory is what it must be; all
    /// of that again with a later checkpoint.
    pub(crate) fn holds(mut self, ticket: Ticket) -> Result<(), Error> {
        let Self { session, region, live, frozen, before, .. } = &mut self;
        assert!(session.slice(region) == live, "live memory");
        let id = session.wait(ticket)?;
        assert!(session.slice(region) == live, "live memory after the copying");
        let later = session.checkpoint()?;
        for (id, expected) in [(id, &*frozen), (*before, &filled(1)), (later, live), (id, frozen)] {
            session.rollback(id)?;
            assert!(session.slice(region) == expected, "checkpoint {id}");
        }
        Ok(())
    }
}

/// Where byte `at` of a region's memory is.
pub(crate) fn place(memory: &Pages, at: usize) -> *mut u8 {
    assert!(at < memory.len());
    std::ptr::with_exposed_provenance_mut(usize::try_from(memory.address()).expect("an address") + at)
}
