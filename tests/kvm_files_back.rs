//! Files that go back with the memory.
