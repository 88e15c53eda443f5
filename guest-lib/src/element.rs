//! What a region may hold.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Plain data: every bit pattern is a value, no padding, no pointers, no interior mutability.
///
/// Implemented for everything that has zerocopy's three traits: the integers and floats, arrays of
/// them, and structs that derive the traits.
///
/// ```
/// use cairn_guest::zerocopy::{FromBytes, Immutable, IntoBytes};
///
/// #[derive(FromBytes, IntoBytes, Immutable)]
/// #[repr(C)]
/// struct Account {
///     id: u64,
///     balance: i64,
/// }
///
/// # fn main() -> Result<(), cairn_guest::Error> {
/// let mut session = cairn_guest::Session::open()?;
/// let accounts = session.region::<Account>("accounts", 1000)?;
/// session.slice_mut(&accounts)[3].balance = -5;
/// # Ok(())
/// # }
/// ```
pub trait Element: FromBytes + IntoBytes + Immutable + 'static {}

impl<T: FromBytes + IntoBytes + Immutable + 'static> Element for T {}
