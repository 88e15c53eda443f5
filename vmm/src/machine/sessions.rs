//! What a session of either guest may have.

/// Checkpoints that a session retains unless told otherwise.
pub const DEFAULT_HISTORY: usize = 8;
/// Regions that a session may have at once. Bounds the memslots and tables of one program.
pub(super) const MAX_REGIONS: u32 = 64;
