//! The cases about regions and their memory.

use std::iter;

use cairn_abi::ids::MAX_NAME_LEN;

use super::pages::Pages;
use super::{Case, Finding, ensure, ensure_refused};
use crate::error::Error;
use crate::hints::RegionMode;
use crate::memory::{HUGE_PAGE, PAGE};
use crate::region::Region;
use crate::session::Session;

/// Regions that every session can have at once.
const REGIONS: usize = 64;

pub(super) const ALL: &[Case] = &[
    ("regions are aligned and sized as asked", layout),
    ("regions are rolled back together", together),
    ("several slices at once", several_slices),
    ("sixty-four regions", many_regions),
    ("a region made after a checkpoint is named", made_later),
    ("a region dropped after a checkpoint is named", dropped_later),
    ("a name is free again when its region is dropped", names_come_back),
    ("names that are no names are refused", bad_names),
    ("a region without elements or beyond every size is refused", bad_sizes),
    ("adopted memory keeps its content and is rolled back", adopts),
    ("memory is the program's again when its region is dropped", gives_back),
    ("memory that is not whole pages is not adopted", adopts_whole_pages),
    ("memory is adopted once", adopts_once),
    ("a sparse region is zeros where it was not written", sparse),
];

fn layout(session: &mut Session) -> Result<(), Finding> {
    for (name, len) in
        [("one", 1), ("page", PAGE), ("more", PAGE + 1), ("huge", HUGE_PAGE), ("odd", HUGE_PAGE + 5)]
    {
        let region = session.region::<u8>(name, len)?;
        let slice = session.slice(&region);
        let alignment = if len >= HUGE_PAGE { HUGE_PAGE } else { PAGE };
        ensure(slice.len() == len && region.len() == len, format_args!("{name}: {} bytes", slice.len()))?;
        ensure(
            slice.as_ptr().addr().is_multiple_of(alignment),
            format_args!("{name} at {:p}", slice.as_ptr()),
        )?;
    }
    let words = session.region::<[u32; 3]>("words", 1000)?;
    session.slice_mut(&words)[999] = [1, 2, 3];
    ensure(session.slice(&words).len() == 1000, "elements are miscounted")
}

fn together(session: &mut Session) -> Result<(), Finding> {
    let left = session.region::<u64>("left", 10_000)?;
    let right = session.region::<f32>("right", 3)?;
    session.slice_mut(&left)[9_999] = 1;
    session.slice_mut(&right)[2] = 0.5;
    let id = session.checkpoint()?;
    session.slice_mut(&left)[9_999] = 2;
    session.slice_mut(&right)[2] = -1.0;
    session.rollback(id)?;
    ensure(session.slice(&left)[9_999] == 1, "the left one is wrong")?;
    ensure(session.slice(&right)[2].to_bits() == 0.5_f32.to_bits(), "the right one is wrong")
}

fn several_slices(session: &mut Session) -> Result<(), Finding> {
    let a = session.region::<u8>("a", 10)?;
    let b = session.region::<u16>("b", 20)?;
    let c = session.region::<u32>("c", 30)?;
    let (of_c, of_a, of_b) = session.slices_mut((&c, &a, &b));
    ensure((of_a.len(), of_b.len(), of_c.len()) == (10, 20, 30), "slices are mixed up")?;
    of_a[9] = 1;
    of_b[19] = 2;
    of_c[29] = 3;
    let id = session.checkpoint()?;
    session.slices_mut((&a, &b)).0.fill(0);
    session.rollback(id)?;
    let found = (session.slice(&a)[9], session.slice(&b)[19], session.slice(&c)[29]);
    ensure(found == (1, 2, 3), format_args!("{found:?} instead of (1, 2, 3)"))
}

fn many_regions(session: &mut Session) -> Result<(), Finding> {
    let mut regions = Vec::new();
    for index in 0..REGIONS {
        regions.push(session.region::<u32>(&format!("region {index}"), 1024 * (1 + index % 3))?);
    }
    let fill = |session: &mut Session, regions: &[Region<u32>], factor: u32| {
        for (number, region) in (1..).zip(regions) {
            session.slice_mut(region).fill(number * factor);
        }
    };
    fill(session, &regions, 1);
    let id = session.checkpoint()?;
    fill(session, &regions, 1000);
    session.rollback(id)?;
    for (number, region) in (1..).zip(&regions) {
        let holds = session.slice(region).iter().all(|word| *word == number);
        ensure(holds, format_args!("region {number} is wrong"))?;
    }
    regions.into_iter().try_for_each(|region| session.drop_region(region))?;
    ensure(session.figures()?.regions == 0, "regions are left")
}

fn made_later(session: &mut Session) -> Result<(), Finding> {
    let old = session.region::<u8>("old", PAGE)?;
    session.slice_mut(&old)[0] = 1;
    let id = session.checkpoint()?;
    let new = session.region::<u8>("new", PAGE)?;
    session.slice_mut(&old)[0] = 2;
    let names_it =
        |error: &Error| matches!(error, Error::RegionSet { region, registered: true, .. } if region == "new");
    ensure_refused(session.rollback(id), "rollback across a new region", names_it)?;
    ensure(session.slice(&old)[0] == 2, "the refused rollback changed memory")?;
    let both = session.checkpoint()?;
    session.slice_mut(&new)[0] = 3;
    session.rollback(both)?;
    ensure(session.slice(&new)[0] == 0, "the new region is wrong")?;
    session.drop_region(new)?;
    session.rollback(id)?;
    ensure(session.slice(&old)[0] == 1, "the old region is wrong")
}

fn dropped_later(session: &mut Session) -> Result<(), Finding> {
    let kept = session.region::<u8>("kept", PAGE)?;
    let gone = session.region::<u8>("gone", PAGE)?;
    session.slice_mut(&gone)[0] = 1;
    let id = session.checkpoint()?;
    session.drop_region(gone)?;
    session.slice_mut(&kept)[0] = 2;
    for _ in 0..2 {
        let names_it = |error: &Error| matches!(error, Error::RegionSet { region, registered: false, .. } if region == "gone");
        ensure_refused(session.rollback(id), "rollback across a dropped region", names_it)?;
        // A namesake is another region.
        if session.figures()?.regions == 1 {
            session.region::<u8>("gone", PAGE)?;
        }
    }
    ensure(session.slice(&kept)[0] == 2, "the refused rollback changed memory")
}

fn names_come_back(session: &mut Session) -> Result<(), Finding> {
    for round in 0..20 {
        let region = session.region::<u8>("name", PAGE * (1 + round % 4))?;
        ensure(session.slice(&region).iter().all(|byte| *byte == 0), "a new region is not zeros")?;
        session.slice_mut(&region).fill(1);
        let id = session.checkpoint()?;
        session.slice_mut(&region).fill(2);
        session.rollback(id)?;
        ensure(session.slice(&region).iter().all(|byte| *byte == 1), format_args!("round {round}"))?;
        session.drop_region(region)?;
    }
    Ok(())
}

fn bad_names(session: &mut Session) -> Result<(), Finding> {
    let longest: String = iter::repeat_n('x', MAX_NAME_LEN).collect();
    session.region::<u8>(&longest, 1)?;
    session.region::<u8>("größe", 1)?;
    let too_long = format!("{longest}y");
    for name in ["", "a\nb", too_long.as_str()] {
        let is_name = |error: &Error| matches!(error, Error::Name(_));
        ensure_refused(session.region::<u8>(name, 1), "a bad name", is_name)?;
    }
    let taken = |error: &Error| matches!(error, Error::NameTaken { name } if *name == longest);
    ensure_refused(session.region::<u8>(&longest, 1), "a name twice", taken)?;
    ensure(session.figures()?.regions == 2, "a refused region is there")
}

fn bad_sizes(session: &mut Session) -> Result<(), Finding> {
    let empty = |error: &Error| matches!(error, Error::Empty { .. });
    ensure_refused(session.region::<u64>("empty", 0), "no elements", empty)?;
    for len in [usize::MAX, usize::MAX / 8, usize::MAX / 16, 1 << 50] {
        let too_large = |error: &Error| matches!(error, Error::TooLarge { .. });
        ensure_refused(session.region::<u64>("large", len), "too many elements", too_large)?;
    }
    session.region::<u64>("large", 1)?;
    Ok(())
}

fn adopts(session: &mut Session) -> Result<(), Finding> {
    let mut memory = Pages::filled(6, 0xaa)?;
    let region = memory.adopt(session, "mine", RegionMode::Tracked)?;
    ensure(session.slice(&region).iter().all(|byte| *byte == 0xaa), "the content changed")?;
    let first = session.checkpoint()?;
    session.slice_mut(&region)[5 * PAGE..].fill(1);
    let second = session.checkpoint()?;
    session.slice_mut(&region).fill(2);
    session.rollback(first)?;
    ensure(session.slice(&region).iter().all(|byte| *byte == 0xaa), "the first content is not back")?;
    session.rollback(second)?;
    ensure(session.slice(&region)[5 * PAGE..].iter().all(|byte| *byte == 1), "the second is wrong")?;
    session.drop_region(region)?;
    Ok(())
}

fn gives_back(session: &mut Session) -> Result<(), Finding> {
    let mut memory = Pages::filled(3, 1)?;
    let region = memory.adopt(session, "mine", RegionMode::Tracked)?;
    session.checkpoint()?;
    session.slice_mut(&region)[0] = 2;
    session.drop_region(region)?;
    ensure(memory.bytes()[0] == 2 && memory.bytes()[PAGE] == 1, "the content changed")?;
    memory.bytes_mut().fill(3);
    let again = memory.adopt(session, "again", RegionMode::Tracked)?;
    let id = session.checkpoint()?;
    session.slice_mut(&again).fill(4);
    session.rollback(id)?;
    session.drop_region(again)?;
    memory.bytes_mut()[PAGE] = 5;
    ensure(memory.bytes()[0] == 3 && memory.bytes()[PAGE] == 5, "the second time went wrong")
}

fn adopts_whole_pages(session: &mut Session) -> Result<(), Finding> {
    let mut memory = Pages::filled(3, 0)?;
    for (offset, len) in [(1, PAGE), (0, PAGE - 1), (0, PAGE + 1), (8, 2 * PAGE - 8), (PAGE / 2, PAGE)] {
        let unaligned = |error: &Error| matches!(error, Error::Unaligned { len: told, .. } if *told == len);
        ensure_refused(memory.adopt_part(session, "part", offset, len), "part of a page", unaligned)?;
    }
    let empty = |error: &Error| matches!(error, Error::Empty { .. });
    ensure_refused(memory.adopt_part(session, "part", PAGE, 0), "no bytes", empty)?;
    let region = memory.adopt_part(session, "part", PAGE, PAGE)?;
    session.drop_region(region)?;
    Ok(())
}

fn adopts_once(session: &mut Session) -> Result<(), Finding> {
    let mut memory = Pages::filled(4, 0)?;
    let middle = memory.adopt_part(session, "middle", PAGE, 2 * PAGE)?;
    for (offset, len) in [(0, 2 * PAGE), (2 * PAGE, 2 * PAGE), (0, 4 * PAGE), (PAGE, PAGE)] {
        let overlaps = |error: &Error| matches!(error, Error::Overlap { other, .. } if other == "middle");
        ensure_refused(memory.adopt_part(session, "other", offset, len), "overlapping memory", overlaps)?;
    }
    let before = memory.adopt_part(session, "before", 0, PAGE)?;
    let after = memory.adopt_part(session, "after", 3 * PAGE, PAGE)?;
    [before, middle, after].into_iter().try_for_each(|region| session.drop_region(region))?;
    Ok(())
}

fn sparse(session: &mut Session) -> Result<(), Finding> {
    const LEN: usize = 32 << 20;
    let region = session.region::<u8>("sparse", LEN)?;
    let written = [0, PAGE + 1, 3 << 20, LEN / 2 + 4095, LEN - 1];
    for place in written {
        session.slice_mut(&region)[place] = 1;
    }
    let id = session.checkpoint()?;
    session.slice_mut(&region)[5 << 20] = 2;
    session.slice_mut(&region)[LEN - 1] = 2;
    session.rollback(id)?;
    let slice = session.slice(&region);
    ensure(written.iter().all(|place| slice[*place] == 1), "a written byte is wrong")?;
    let sum: u64 = slice.iter().copied().map(u64::from).sum();
    ensure(sum == written.len() as u64, format_args!("the bytes add up to {sum}"))
}
