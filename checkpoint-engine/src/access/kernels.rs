//! Compare and copy of one page, for each vector width.

use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _MM_HINT_T0, _mm_and_si128, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_or_si128,
    _mm_prefetch, _mm_setzero_si128, _mm_xor_si128, _mm256_or_si256, _mm256_setzero_si256,
    _mm256_testz_si256, _mm256_xor_si256, _mm512_cmpneq_epi64_mask, _mm512_or_si512, _mm512_setzero_si512,
    _mm512_xor_si512,
};
use std::sync::OnceLock;

use super::PAGE_CHUNKS;
use crate::CHUNK_SIZE;

/// One vector width's routines.
///
/// All pointers are aligned to 64 bytes. A *page* pointer is valid for 4096 bytes; live pages may be written by
/// others at any time. `old` is valid for writes of a page and receives the changed chunks one after the other.
#[derive(Debug)]
pub(super) struct Kernels {
    /// Name of the instruction set.
    pub(super) name: &'static str,
    /// `(live, mirror, old)`: copies differing chunks from the mirror to `old` and from live memory to the mirror.
    pub(super) take: unsafe fn(*const u8, *mut u8, *mut u8, Ahead) -> Took,
    /// `(live, mirror)`: the same for a mirror page that is all zeros, which are not copied. The page is only written, and only if it changes.
    pub(super) take_zero: unsafe fn(*const u8, *mut u8, Ahead) -> u64,
    /// `(live, mirror)`: copies differing chunks from the mirror to live memory. Whether any did.
    pub(super) restore: unsafe fn(*mut u8, *const u8, Ahead) -> bool,
    /// The same for a mirror page that is all zeros.
    pub(super) restore_zero: unsafe fn(*mut u8, Ahead) -> bool,
    /// `(live, mirror)`: whether any chunk differs. Neither is written.
    pub(super) differs: unsafe fn(*const u8, *const u8, Ahead) -> bool,
    /// The same for a mirror page that is all zeros.
    pub(super) differs_zero: unsafe fn(*const u8, Ahead) -> bool,
}

/// What taking a page found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    /// The chunks that differed.
    pub(super) mask: u64,
    /// Whether the page is all zeros now.
    pub(super) zero: bool,
}

impl Kernels {
    /// The best that this CPU has. Asked once in a process.
    pub(super) fn detect() -> &'static Self {
        static BEST: OnceLock<&'static Kernels> = OnceLock::new();
        BEST.get_or_init(|| Self::available()[0])
    }

    /// All that this CPU can run, the best first.
    pub(super) fn available() -> Vec<&'static Self> {
        let mut all = Vec::new();
        if is_x86_feature_detected!("avx512f") {
            all.push(&avx512::KERNELS);
        }
        if is_x86_feature_detected!("avx2") {
            all.push(&avx2::KERNELS);
        }
        all.push(&sse2::KERNELS);
        all
    }
}

/// Two pages that will be needed soon: their lines are asked for one by one while another page is compared.
///
/// All at once would fill the few buffers that wait for memory, and stall.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    pub(super) live: *const u8,
    pub(super) mirror: *const u8,
}

impl Ahead {
    /// Asks for line `i` of both.
    #[inline(always)]
    fn prefetch(self, i: usize) {
        for page in [self.live, self.mirror] {
            // SAFETY: a prefetch of any address is a hint that can't fault. SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(page.wrapping_add(i * CHUNK_SIZE).cast()) };
        }
    }
}

/// Defines the routines for one vector type. `$differ` says whether two chunks of vectors differ.
///
/// To take a page, `$group` chunks are looked at together: most differ nowhere, and one branch says so. More at once
/// than the registers hold is slower again (by `examples/compare_cost.rs`).
macro_rules! kernels {
    ($module:ident, $feature:literal, $vector:ty, $group:literal, $zero:ident, $or:ident, $xor:ident, $differ:item) => {
        mod $module {
            use super::*;

            pub(super) static KERNELS: Kernels =
                Kernels { name: $feature, take, take_zero, restore, restore_zero, differs, differs_zero };

            /// Vectors in a chunk.
            const VECTORS: usize = CHUNK_SIZE / size_of::<$vector>();
            type Chunk = [$vector; VECTORS];

            $differ

            #[target_feature(enable = $feature)]
            #[inline]
            fn zero() -> Chunk {
                [$zero(); VECTORS]
            }

            /// Loads a chunk, each byte once.
            #[target_feature(enable = $feature)]
            #[inline]
            unsafe fn load(from: *const u8) -> Chunk {
                let mut chunk = zero();
                for (i, vector) in chunk.iter_mut().enumerate() {
                    // SAFETY: the caller's chunk is valid for reads and aligned to 64 bytes. Volatile: it may be live memory.
                    *vector = unsafe { from.cast::<$vector>().add(i).read_volatile() };
                }
                chunk
            }

            /// Stores a chunk.
            #[target_feature(enable = $feature)]
            #[inline]
            unsafe fn store(to: *mut u8, chunk: Chunk) {
                for (i, vector) in chunk.into_iter().enumerate() {
                    // SAFETY: the caller's chunk is valid for writes and aligned to 64 bytes. Volatile: it may be live memory.
                    unsafe { to.cast::<$vector>().add(i).write_volatile(vector) };
                }
            }

            /// The bits that are set in either.
            #[target_feature(enable = $feature)]
            #[inline]
            fn union(mut a: Chunk, b: Chunk) -> Chunk {
                for (vector, more) in a.iter_mut().zip(b) {
                    *vector = $or(*vector, more);
                }
                a
            }

            /// The bits that are set in one of the two.
            #[target_feature(enable = $feature)]
            #[inline]
            fn difference(mut a: Chunk, b: Chunk) -> Chunk {
                for (vector, other) in a.iter_mut().zip(b) {
                    *vector = $xor(*vector, other);
                }
                a
            }

            #[target_feature(enable = $feature)]
            unsafe fn take(live: *const u8, mirror: *mut u8, mut old: *mut u8, ahead: Ahead) -> Took {
                let (mut mask, mut all) = (0, zero());
                for first in (0..PAGE_CHUNKS).step_by($group) {
                    let (mut new, mut known) = ([zero(); $group], [zero(); $group]);
                    let mut differing = zero();
                    for j in 0..$group {
                        ahead.prefetch(first + j);
                        // SAFETY: chunk `first + j` of two pages.
                        unsafe {
                            new[j] = load(live.add((first + j) * CHUNK_SIZE));
                            known[j] = load(mirror.add((first + j) * CHUNK_SIZE));
                        }
                        all = union(all, new[j]);
                        differing = union(differing, difference(new[j], known[j]));
                    }
                    if !differ(differing, zero()) {
                        continue;
                    }
                    for j in 0..$group {
                        if differ(new[j], known[j]) {
                            // SAFETY: as above; `old` has had fewer than 64 chunks so far and is valid for 64.
                            unsafe {
                                store(old, known[j]);
                                store(mirror.add((first + j) * CHUNK_SIZE), new[j]);
                                old = old.add(CHUNK_SIZE);
                            }
                            mask |= 1 << (first + j);
                        }
                    }
                }
                Took { mask, zero: !differ(all, zero()) }
            }

            #[target_feature(enable = $feature)]
            unsafe fn take_zero(live: *const u8, mirror: *mut u8, ahead: Ahead) -> u64 {
                let mut mask = 0;
                for i in 0..PAGE_CHUNKS {
                    ahead.prefetch(i);
                    // SAFETY: chunk `i` of two pages.
                    unsafe {
                        let new = load(live.add(i * CHUNK_SIZE));
                        if differ(new, zero()) {
                            store(mirror.add(i * CHUNK_SIZE), new);
                            mask |= 1 << i;
                        }
                    }
                }
                mask
            }

            #[target_feature(enable = $feature)]
            unsafe fn restore(live: *mut u8, mirror: *const u8, ahead: Ahead) -> bool {
                let mut changed = false;
                for i in 0..PAGE_CHUNKS {
                    ahead.prefetch(i);
                    // SAFETY: chunk `i` of two pages.
                    unsafe {
                        let wanted = load(mirror.add(i * CHUNK_SIZE));
                        if differ(load(live.add(i * CHUNK_SIZE)), wanted) {
                            store(live.add(i * CHUNK_SIZE), wanted);
                            changed = true;
                        }
                    }
                }
                changed
            }

            #[target_feature(enable = $feature)]
            unsafe fn restore_zero(live: *mut u8, ahead: Ahead) -> bool {
                let mut changed = false;
                for i in 0..PAGE_CHUNKS {
                    ahead.prefetch(i);
                    // SAFETY: chunk `i` of a page.
                    unsafe {
                        if differ(load(live.add(i * CHUNK_SIZE)), zero()) {
                            store(live.add(i * CHUNK_SIZE), zero());
                            changed = true;
                        }
                    }
                }
                changed
            }

            #[target_feature(enable = $feature)]
            unsafe fn differs(live: *const u8, mirror: *const u8, ahead: Ahead) -> bool {
                for i in 0..PAGE_CHUNKS {
                    ahead.prefetch(i);
                    // SAFETY: chunk `i` of two pages.
                    if unsafe { differ(load(live.add(i * CHUNK_SIZE)), load(mirror.add(i * CHUNK_SIZE))) } {
                        return true;
                    }
                }
                false
            }

            #[target_feature(enable = $feature)]
            unsafe fn differs_zero(live: *const u8, ahead: Ahead) -> bool {
                for i in 0..PAGE_CHUNKS {
                    ahead.prefetch(i);
                    // SAFETY: chunk `i` of a page.
                    if unsafe { differ(load(live.add(i * CHUNK_SIZE)), zero()) } {
                        return true;
                    }
                }
                false
            }
        }
    };
}

kernels!(
    avx512,
    "avx512f",
    __m512i,
    4,
    _mm512_setzero_si512,
    _mm512_or_si512,
    _mm512_xor_si512,
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn differ(a: Chunk, b: Chunk) -> bool {
        _mm512_cmpneq_epi64_mask(a[0], b[0]) != 0
    }
);

kernels!(
    avx2,
    "avx2",
    __m256i,
    2,
    _mm256_setzero_si256,
    _mm256_or_si256,
    _mm256_xor_si256,
    #[target_feature(enable = "avx2")]
    #[inline]
    fn differ(a: Chunk, b: Chunk) -> bool {
        let bits = _mm256_or_si256(_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1]));
        _mm256_testz_si256(bits, bits) == 0
    }
);

kernels!(
    sse2,
    "sse2",
    __m128i,
    1,
    _mm_setzero_si128,
    _mm_or_si128,
    _mm_xor_si128,
    #[target_feature(enable = "sse2")]
    #[inline]
    fn differ(a: Chunk, b: Chunk) -> bool {
        let first = _mm_and_si128(_mm_cmpeq_epi8(a[0], b[0]), _mm_cmpeq_epi8(a[1], b[1]));
        let last = _mm_and_si128(_mm_cmpeq_epi8(a[2], b[2]), _mm_cmpeq_epi8(a[3], b[3]));
        _mm_movemask_epi8(_mm_and_si128(first, last)) != 0xffff
    }
);
