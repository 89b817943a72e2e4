//! Vector code that finds the ends of words, 64 bytes at a time, and the memory of tables: two
//! hints, prefetches and page size, and vectors with mappings of their own.
//!
//! This is the only module of the crate with `unsafe` code. The vector code has a scalar twin. The
//! twin runs on targets without vector code, and a property test compares the two.
#![allow(unsafe_code)]

/// Number of bytes that one mask covers.
pub const WINDOW_BYTES: usize = 64;

/// Most windows per call of [`scan`]. The text is then still in the first-level cache when its
/// words are read.
pub const WINDOWS_MAX: usize = 32;

/// Bytes that a scan found and that need more work than a plain word end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// A carriage return.
    pub cr: bool,
    /// A byte above 0x7F.
    pub high: bool,
}

/// Sets bit i of `ends[w]` where byte i of `windows[w]` is a space, a line feed or a carriage
/// return, for up to [`WINDOWS_MAX`] windows.
#[inline]
pub fn scan(windows: &[[u8; WINDOW_BYTES]], ends: &mut [u64; WINDOWS_MAX]) -> Seen {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2: the line above checked it.
            unsafe { x86::scan_avx2(windows, ends) }
        } else {
            x86::scan_sse2(windows, ends)
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    scan_scalar(windows, ends)
}

/// Does the same as [`scan`] in scalar code.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn scan_scalar(windows: &[[u8; WINDOW_BYTES]], ends: &mut [u64; WINDOWS_MAX]) -> Seen {
    let mut seen = Seen::default();
    for (window, mask) in windows.iter().zip(ends) {
        *mask = 0;
        let mut high = 0;
        for (at, &byte) in window.iter().enumerate() {
            let cr = byte == b'\r';
            *mask |= u64::from(byte == b' ' || byte == b'\n' || cr) << at;
            seen.cr |= cr;
            high |= byte;
        }
        seen.high |= high > 0x7F;
    }
    seen
}

/// Prefetches the cache line of `items[at]`, if there is one. Nothing else changes.
#[inline(always)]
pub fn prefetch<T>(items: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let address = items.as_ptr().wrapping_add(at);
        // SAFETY: a prefetch is a hint that cannot fault, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (items, at);
}

/// Size in bytes from which memory is asked for in huge pages (of 2 MiB, if the system has them).
const HUGE_BYTES_MIN: usize = 4 << 20;

/// Size in bytes from which the allocator of glibc gives each allocation a mapping of its own,
/// whatever was freed before.
///
/// When a smaller mapping is freed, up to 32 MiB, glibc takes allocations of up to its size from
/// heaps, and lets each heap keep twice as much. Heaps do not give back what is freed between words
/// that stay. After the first epoch with 16 MiB of one column, a fifth to a third of the memory was
/// such holes.
const APART_BYTES_MIN: usize = 33 << 20;

/// Returns the room that a vector for `len` items has: at least [`APART_BYTES_MIN`] if it is large.
/// Room that is not used is not touched: it takes addresses only.
pub fn room_apart<T>(len: usize) -> usize {
    match len * size_of::<T>() {
        0..HUGE_BYTES_MIN => len,
        _ => len.max(APART_BYTES_MIN.div_ceil(size_of::<T>())),
    }
}

/// Makes an empty vector with room for `len` items, in huge pages if it is large.
///
/// A vector that is filled once from end to end then costs a page fault every 2 MiB instead of one
/// every 4 KiB.
pub fn vec_with_room<T>(len: usize) -> Vec<T> {
    let items = Vec::with_capacity(len);
    advise_if_large(&items);
    items
}

/// Makes an empty vector as [`vec_with_room`] does. If it is large, it has a mapping of its own,
/// whose memory is free for the system again with the vector.
pub fn vec_apart<T>(len: usize) -> Vec<T> {
    vec_with_room(room_apart::<T>(len))
}

/// Size in bytes from which slots have a mapping of their own.
const MAPPED_BYTES_MIN: usize = 128 << 10;

/// Returns true if a vector of `len` items is to have a mapping of its own.
fn is_mapped<T>(len: usize) -> bool {
    len * size_of::<T>() >= MAPPED_BYTES_MIN
}

/// Makes an empty vector with room for `len` items and a mapping of its own.
///
/// glibc maps the room for more, and then shortens the mapping, unless it is for 4 MiB or more. The
/// vector grows and shrinks in place from then on, without a copy and without holes in a heap.
pub fn vec_mapped<T>(len: usize) -> Vec<T> {
    let mut items = Vec::with_capacity(len.max(APART_BYTES_MIN / size_of::<T>()));
    items.shrink_to(room_apart::<T>(len));
    advise_if_large(&items);
    items
}

/// Makes a vector of `len` zeros (`zero` is one), which are not touched. It has a mapping of its
/// own unless it is small.
pub fn zeros_mapped<T: Copy>(zero: T, len: usize) -> Vec<T> {
    if !is_mapped::<T>(len) {
        return vec![zero; len];
    }
    let mut items = vec![zero; len.max(APART_BYTES_MIN / size_of::<T>())];
    items.truncate(len);
    items.shrink_to(room_apart::<T>(len));
    advise_if_large(&items);
    items
}

/// Changes the number of items to `len`; new ones are `item`. The room is then that of
/// [`vec_mapped`], unless it is small.
pub fn resize_mapped<T: Copy>(items: &mut Vec<T>, len: usize, item: T) {
    if len <= items.len() {
        items.truncate(len);
        items.shrink_to(room_apart::<T>(len));
    } else if is_mapped::<T>(len) && !is_mapped::<T>(items.capacity()) {
        let small = std::mem::replace(items, vec_mapped(len));
        items.extend_from_slice(&small);
    } else if len > items.capacity() {
        items.reserve_exact(room_apart::<T>(len) - items.len());
        advise_if_large(items);
    }
    items.resize(len, item);
}

/// Returns true if the room of `items` is so large that [`resize_mapped`] does not shorten it.
pub fn has_room_apart<T>(items: &Vec<T>) -> bool {
    items.capacity() * size_of::<T>() >= HUGE_BYTES_MIN
}

/// Advises the kernel to use huge pages for `items` if its room is large.
pub fn advise_if_large<T>(items: &Vec<T>) {
    if items.capacity() * size_of::<T>() >= HUGE_BYTES_MIN {
        advise_huge_pages(items);
    }
}

/// Advises the kernel to use huge pages for the memory of `items` that is not touched yet.
///
/// A random read then misses the cache, but seldom the address translation. On a system without
/// huge pages or without this call, nothing changes.
fn advise_huge_pages<T>(items: &Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        use rustix::mm::{Advice, madvise};
        // Outwards to whole pages: with a page left out, what the allocator has mapped as one would
        // be two mappings, and those it cannot extend in place.
        let page_bytes = rustix::param::page_size();
        let start = items.as_ptr().addr() / page_bytes * page_bytes;
        let end = items.as_ptr().addr() + items.capacity() * size_of::<T>();
        let pages = items.as_ptr().with_addr(start).cast_mut().cast();
        // SAFETY: this advice changes neither the contents of memory nor what may be done with it,
        // so it harms nothing, not even what else lies in the first and the last page.
        let advised = unsafe { madvise(pages, end - start, Advice::LinuxHugepage) };
        // A kernel without huge pages refuses the advice. Small pages work as well, only slower.
        let _ = advised;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = items;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Seen, WINDOW_BYTES, WINDOWS_MAX};
    use std::arch::x86_64::*;

    /// `scan` with SSE2, which every x86-64 has.
    pub fn scan_sse2(windows: &[[u8; WINDOW_BYTES]], ends: &mut [u64; WINDOWS_MAX]) -> Seen {
        // SAFETY: SSE2 is part of x86-64, and each of the four 16-byte loads (which need no
        // alignment) lies inside its window of 64 bytes.
        unsafe {
            let space = _mm_set1_epi8(b' ' as i8);
            let lf = _mm_set1_epi8(b'\n' as i8);
            let cr = _mm_set1_epi8(b'\r' as i8);
            let (mut any_cr, mut any) = (_mm_setzero_si128(), _mm_setzero_si128());
            for (window, mask) in windows.iter().zip(ends) {
                *mask = 0;
                for lane in 0..4 {
                    let text = _mm_loadu_si128(window.as_ptr().add(16 * lane).cast());
                    let is_cr = _mm_cmpeq_epi8(text, cr);
                    let is_lf = _mm_cmpeq_epi8(text, lf);
                    let is_space = _mm_cmpeq_epi8(text, space);
                    let end = _mm_or_si128(_mm_or_si128(is_space, is_lf), is_cr);
                    *mask |= u64::from(_mm_movemask_epi8(end) as u32) << (16 * lane);
                    any_cr = _mm_or_si128(any_cr, is_cr);
                    any = _mm_or_si128(any, text);
                }
            }
            Seen { cr: _mm_movemask_epi8(any_cr) != 0, high: _mm_movemask_epi8(any) != 0 }
        }
    }

    /// `scan` with AVX2.
    #[target_feature(enable = "avx2")]
    pub fn scan_avx2(windows: &[[u8; WINDOW_BYTES]], ends: &mut [u64; WINDOWS_MAX]) -> Seen {
        let space = _mm256_set1_epi8(b' ' as i8);
        let lf = _mm256_set1_epi8(b'\n' as i8);
        let cr = _mm256_set1_epi8(b'\r' as i8);
        let (mut any_cr, mut any) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (window, mask) in windows.iter().zip(ends) {
            *mask = 0;
            for lane in 0..2 {
                // SAFETY: both 32-byte loads (which need no alignment) lie inside their window of
                // 64 bytes.
                let text = unsafe { _mm256_loadu_si256(window.as_ptr().add(32 * lane).cast()) };
                let is_cr = _mm256_cmpeq_epi8(text, cr);
                let is_lf = _mm256_cmpeq_epi8(text, lf);
                let is_space = _mm256_cmpeq_epi8(text, space);
                let end = _mm256_or_si256(_mm256_or_si256(is_space, is_lf), is_cr);
                *mask |= u64::from(_mm256_movemask_epi8(end) as u32) << (32 * lane);
                any_cr = _mm256_or_si256(any_cr, is_cr);
                any = _mm256_or_si256(any, text);
            }
        }
        Seen { cr: _mm256_movemask_epi8(any_cr) != 0, high: _mm256_movemask_epi8(any) != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes in which all that a scan looks for is frequent, and so are its neighbours.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            4 => prop::sample::select(b" \n\r\x1f!\t\x0b\x0c\x0e\x8a\x8d\xa0\x7f\x80".to_vec()),
            4 => b'a'..=b'z',
            1 => any::<u8>(),
        ];
        prop::collection::vec(byte, 0..WINDOW_BYTES * 5)
    }

    proptest! {
        #[test]
        fn vector_scans_see_what_the_scalar_scan_sees(text in bytes(), rare in any::<bool>()) {
            let keep = |byte: &u8| rare || (*byte < 0x80 && *byte != b'\r');
            let text: Vec<u8> = text.into_iter().filter(keep).collect();
            let windows = text.as_chunks::<WINDOW_BYTES>().0;
            let mut expected = [0; WINDOWS_MAX];
            let seen = scan_scalar(windows, &mut expected);
            let mut found = [0; WINDOWS_MAX];
            prop_assert_eq!(scan(windows, &mut found), seen);
            prop_assert_eq!(found, expected);
            #[cfg(target_arch = "x86_64")]
            {
                let mut found = [0; WINDOWS_MAX];
                prop_assert_eq!(x86::scan_sse2(windows, &mut found), seen);
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn prefetch_past_the_end_is_harmless() {
        prefetch(&[1_u8, 2], 1);
        prefetch(&[1_u8, 2], 1 << 40);
        prefetch::<u64>(&[], 0);
    }

    #[test]
    fn advised_memory_keeps_its_contents() {
        for len in [0, 1, 5_000, 3 << 20] {
            let items = vec![7_u64; len];
            advise_huge_pages(&items);
            assert!(items.iter().all(|item| *item == 7));
        }
    }

    #[test]
    fn room_is_empty_and_sufficient() {
        for len in [0, 5, 3 << 20] {
            let items: Vec<u64> = vec_with_room(len);
            assert!(items.is_empty() && items.capacity() >= len);
            let items: Vec<u64> = vec_apart(len);
            let is_large = len * 8 >= HUGE_BYTES_MIN;
            assert_eq!(items.capacity() * 8 >= APART_BYTES_MIN, is_large);
        }
    }

    #[test]
    fn mapped_vectors_keep_items_at_any_length() {
        let lengths = [1, 5_000, 16_383, 16_384, 70_000, 524_288, 600_000, 40_000, 16_000, 5 << 20];
        for first in [3, 20_000, 600_000] {
            let mut items = zeros_mapped(0_u64, first);
            assert!(items.len() == first && items.iter().all(|item| *item == 0));
            items.iter_mut().zip(7..).for_each(|(item, number)| *item = number);
            for len in lengths {
                let before = items.clone();
                resize_mapped(&mut items, len, 5);
                let kept = before.len().min(len);
                assert!(
                    items[..kept] == before[..kept] && items[kept..].iter().all(|new| *new == 5)
                );
                let is_large = len * 8 >= HUGE_BYTES_MIN;
                assert_eq!(items.capacity() * 8 >= APART_BYTES_MIN, is_large, "{len}");
            }
        }
        let chunk: Vec<u8> = vec_mapped(300 << 10);
        assert!(chunk.capacity() == 300 << 10 && chunk.is_empty());
    }
}
