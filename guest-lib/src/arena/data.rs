//! What may live in an arena.

use std::cmp::Reverse;
use std::num::{NonZero, Wrapping};

use super::map::{Entry, Map};
use super::text::Text;
use super::vector::Vector;
use crate::shape::Shape;

/// A type whose values may live in an [`Arena`](super::Arena): rollbacks take them back to earlier bytes
/// without their knowledge, and no code of theirs runs for it.
///
/// Implemented for numbers, `bool`, `char`, arrays, tuples, `Option` and the arena's collections.
/// [`region_data!`](crate::region_data) implements it for structs of such fields, without `unsafe`.
///
/// # Safety
/// A type that implements it promises:
/// - It holds no pointer, reference or handle whose validity depends on anything outside the arena's
///   region: no `String`, `Box`, `Rc`, `&T`, nor an address as a number that unsafe code follows.
/// - Bytes that were a valid value at some time are one again when they are put back, alone or together
///   with all other bytes of the region. The value that was there vanishes without a drop, and one that
///   was moved out or dropped since is there again. So no unsafe code relies on a value being dropped, or
///   on there being one value only, and dropping has no effect outside the region.
/// - It has no interior mutability, and any one thread may use it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't live in an arena",
    label = "not `RegionData`",
    note = "a rollback would not take back what it owns outside the region: use `Text`, `Vector` or `Map` in place of std's collections, and `region_data!` for structs"
)]
pub unsafe trait RegionData {
    /// Tells what it's made of. A store compares that: what another program wrote must not come back as this type.
    #[doc(hidden)]
    fn describe(shape: &mut Shape)
    where
        Self: Sized,
    {
        shape.add::<Self>();
    }
}

/// A type that can be an arena's root: `region_data!` implements it for structs, as `Name` if they have no
/// lifetime and as `Name<'static>` if they have one.
pub trait ArenaRoot: 'static {
    /// The root as the arena with the brand `'r` holds it.
    type In<'r>: RegionData;
}

/// Describes a type that is made of these.
macro_rules! made_of {
    ($($part:ty),+) => {
        fn describe(shape: &mut Shape) {
            if shape.add::<Self>() {
                $(<$part as RegionData>::describe(shape);)+
            }
        }
    };
}

macro_rules! plain {
    ($($type:ty),+) => {
        // SAFETY: numbers, or nothing: no pointers, no drop, no interior mutability.
        $(unsafe impl RegionData for $type {})+
    };
}

plain!((), bool, char, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64);
plain!(NonZero<u8>, NonZero<u16>, NonZero<u32>, NonZero<u64>, NonZero<u128>, NonZero<usize>);
plain!(NonZero<i8>, NonZero<i16>, NonZero<i32>, NonZero<i64>, NonZero<i128>, NonZero<isize>);

// SAFETY: made of values that keep the promise, to which it adds nothing of its own.
unsafe impl<T: RegionData, const N: usize> RegionData for [T; N] {
    made_of!(T);
}
// SAFETY: as above.
unsafe impl<T: RegionData> RegionData for Option<T> {
    made_of!(T);
}
// SAFETY: as above.
unsafe impl<T: RegionData> RegionData for Wrapping<T> {
    made_of!(T);
}
// SAFETY: as above.
unsafe impl<T: RegionData> RegionData for Reverse<T> {
    made_of!(T);
}

macro_rules! tuple {
    ($($element:ident),+) => {
        // SAFETY: made of values that keep the promise.
        unsafe impl<$($element: RegionData),+> RegionData for ($($element,)+) {
            made_of!($($element),+);
        }
    };
}

tuple!(A);
tuple!(A, B);
tuple!(A, B, C);
tuple!(A, B, C, D);
tuple!(A, B, C, D, E);
tuple!(A, B, C, D, E, F);
tuple!(A, B, C, D, E, F, G);
tuple!(A, B, C, D, E, F, G, H);

// SAFETY: a vector is its arena's address, an offset in it and two numbers; the arena's region stays at
// that address for as long as anything can use it. Its elements keep the promise. Dropping it changes the
// arena alone. Two copies of one can't meet: values that own memory bear their arena's brand, so none
// leaves `Session::with`, in which there is no rollback.
unsafe impl<T: RegionData> RegionData for Vector<'_, T> {
    made_of!(T);
}
// SAFETY: a vector of bytes.
unsafe impl RegionData for Text<'_> {}
// SAFETY: two vectors and numbers.
unsafe impl<K: RegionData, V: RegionData> RegionData for Map<'_, K, V> {
    made_of!(K, V);
}
// SAFETY: made of values that keep the promise.
unsafe impl<K: RegionData, V: RegionData> RegionData for Entry<K, V> {
    made_of!(K, V);
}

/// Refuses types that implement `Drop` by overlapping with them.
#[doc(hidden)]
pub trait NoDrop {}

#[expect(drop_bounds, reason = "the overlap with types that implement Drop is what it is for")]
impl<T: Drop> NoDrop for T {}

/// Defines a struct that may live in an arena, and be its root. All its fields are
/// [`RegionData`](crate::arena::RegionData); it has no parameter, or the lifetime of its arena. It is laid
/// out as in C (`repr(C)`), so that every build of the program agrees on it.
///
/// ```
/// use cairn_guest::arena::{Map, Text};
/// use cairn_guest::region_data;
///
/// region_data! {
///     /// Where somebody lives.
///     #[derive(Clone, Copy, Debug)]
///     struct Address {
///         house: u32,
///         floor: Option<u8>,
///     }
/// }
///
/// region_data! {
///     struct People<'r> {
///         addresses: Map<'r, Text<'r>, Address>,
///     }
/// }
/// ```
///
/// A field that keeps something outside the region doesn't compile:
///
/// ```compile_fail,E0277
/// cairn_guest::region_data! {
///     struct Word {
///         text: String,
///         count: u64,
///     }
/// }
/// ```
///
/// ```
/// use cairn_guest::arena::Text;
///
/// cairn_guest::region_data! {
///     struct Word<'r> {
///         text: Text<'r>,
///         count: u64,
///     }
/// }
/// ```
///
/// Nor does a struct with a `Drop` of its own: a rollback would not run it.
///
/// ```compile_fail,E0119
/// cairn_guest::region_data! {
///     struct Word {
///         count: u64,
///     }
/// }
///
/// impl Drop for Word {
///     fn drop(&mut self) {
///         println!("{}", self.count);
///     }
/// }
/// ```
///
/// ```
/// cairn_guest::region_data! {
///     struct Word {
///         count: u64,
///     }
/// }
///
/// impl Word {
///     fn close(&mut self) {
///         println!("{}", self.count);
///     }
/// }
/// ```
#[macro_export]
macro_rules! region_data {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident $(<$brand:lifetime>)? {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[repr(C)]
        $visibility struct $name $(<$brand>)? {
            $($(#[$field_attribute])* $field_visibility $field: $type),*
        }

        // SAFETY: all fields are RegionData, as `fields` below checks; the struct adds none of its own to
        // the promise, and has no Drop, as `NoDrop` checks.
        unsafe impl $(<$brand>)? $crate::arena::RegionData for $name $(<$brand>)? {
            fn describe(shape: &mut $crate::Shape) {
                if shape.add::<Self>() {
                    $(
                        shape.text(::core::stringify!($field));
                        <$type as $crate::arena::RegionData>::describe(shape);
                    )*
                }
            }
        }

        impl $(<$brand>)? $crate::arena::NoDrop for $name $(<$brand>)? {}

        const _: fn() = || {
            fn is_region_data<T: $crate::arena::RegionData>() {}
            fn fields $(<$brand>)? (_: ::core::option::Option<&$name $(<$brand>)?>) {
                $(is_region_data::<$type>();)*
            }
            fields(::core::option::Option::None);
        };

        $crate::region_data!(@root $name $(<$brand>)?);
    };
    (@root $name:ident) => {
        impl $crate::arena::ArenaRoot for $name {
            type In<'r> = $name;
        }
    };
    (@root $name:ident <$brand:lifetime>) => {
        impl $crate::arena::ArenaRoot for $name<'static> {
            type In<$brand> = $name<$brand>;
        }
    };
}
