//! WAL that follows from a seed, and what is remembered of it.
//!
//! All of it follows from a seed, so that any position can be made again: the source keeps a
//! generator for each segment instead of gigabytes.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use walhub_engine::crc::crc32c;
use walhub_proto::generate::{WalGenerator, WalShape};
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::page::WalVersion;
use walhub_proto::segment::SegmentSize;

/// Size of the source's segments, and of the pieces that are compared.
pub const SEGMENT: SegmentSize = SegmentSize::DEFAULT;
/// Where the WAL begins.
pub const START: Lsn = Lsn(3 << 24);
/// What is the same on every page.
pub const SHAPE: WalShape = WalShape {
    system_identifier: SystemIdentifier(7_300_000_000_000_000_001),
    segment_size: SEGMENT,
    timeline: TimelineId::FIRST,
    version: WalVersion::PG15,
    crc: crc32c,
};
const SEED: u64 = 0x77616C_687562;
/// Content of a small commit.
const COMMIT: &[u8] = &[b'c'; 160];

/// The stream of records: bulk up to a position, then small commits.
#[derive(Clone, Debug)]
pub struct WalStream {
    generator: WalGenerator,
    bulk_end: Lsn,
    commits: usize,
}

impl WalStream {
    fn new(bulk_end: Lsn) -> Self {
        Self { generator: WalGenerator::new(SEED, SHAPE, START), bulk_end, commits: 0 }
    }

    /// End of what was made.
    pub const fn lsn(&self) -> Lsn {
        self.generator.lsn()
    }

    /// How many small commits were made.
    pub const fn commits(&self) -> usize {
        self.commits
    }

    /// Whether the next record is a small commit.
    pub fn is_bulk_done(&self) -> bool {
        self.lsn() >= self.bulk_end
    }

    /// Appends the next record.
    pub fn append_next(&mut self, out: &mut Vec<u8>) {
        if self.is_bulk_done() {
            self.commits += 1;
            self.generator.append_message(COMMIT, out);
        } else {
            self.generator.append_next(out);
        }
    }
}

/// Checksums of a stream of bytes, one for each segment's worth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sums {
    lsn: Lsn,
    finished: Vec<u32>,
    current: u32,
}

impl Default for Sums {
    /// Of nothing yet.
    fn default() -> Self {
        Self { lsn: START, finished: Vec::new(), current: 0 }
    }
}

impl Sums {
    /// End of what was summed.
    pub const fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Checksums of the whole segments.
    pub fn finished(&self) -> &[u32] {
        &self.finished
    }

    /// Checksum of the segment with this number, counted from the first; of what there is of the
    /// last one.
    pub fn sum_of(&self, index: usize) -> Option<u32> {
        let is_last = index == self.finished.len();
        self.finished.get(index).copied().or_else(|| is_last.then_some(self.current))
    }

    /// Takes bytes that begin at `start`; what was taken before is passed over.
    ///
    /// # Panics
    /// If there is a gap.
    pub fn add(&mut self, start: Lsn, bytes: &[u8]) {
        assert!(start <= self.lsn, "a gap from {} to {start}", self.lsn);
        let known = usize::try_from(self.lsn - start).unwrap_or(usize::MAX);
        let mut bytes = bytes.get(known..).unwrap_or_default();
        while !bytes.is_empty() {
            let room = SEGMENT.bytes() - SEGMENT.offset(self.lsn);
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(room.min(bytes.len()));
            self.current = crc32c(self.current, piece);
            self.lsn = self.lsn + len_u64(piece.len());
            if SEGMENT.offset(self.lsn) == 0 {
                self.finished.push(std::mem::take(&mut self.current));
            }
            bytes = rest;
        }
    }

    /// One number for all.
    pub fn digest(&self) -> u32 {
        let all = self.finished.iter().chain(std::iter::once(&self.current));
        all.fold(0, |digest, sum| crc32c(digest, &sum.to_be_bytes()))
    }
}

/// When each small commit was made.
#[derive(Debug)]
pub struct Commits {
    made: Box<[(AtomicU64, AtomicU64)]>,
    count: AtomicUsize,
}

impl Commits {
    /// Room for `max` of them.
    pub fn new(max: usize) -> Self {
        let made = (0..max).map(|_| (AtomicU64::new(0), AtomicU64::new(0))).collect();
        Self { made, count: AtomicUsize::new(0) }
    }

    /// How many there will be.
    pub const fn max(&self) -> usize {
        self.made.len()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The commit with this number ends at `end` and was made at `made_ns`. One made again after a
    /// reconnection keeps its first time.
    pub fn publish(&self, number: usize, end: Lsn, made_ns: u64) {
        let Some((lsn, time)) = self.made.get(number) else { return };
        if number == self.count() {
            lsn.store(end.0, Ordering::Relaxed);
            time.store(made_ns, Ordering::Relaxed);
            self.count.store(number + 1, Ordering::Release);
        }
    }

    /// End and time of a commit that was made.
    pub fn of(&self, number: usize) -> Option<(Lsn, u64)> {
        if number >= self.count() {
            return None;
        }
        let (lsn, time) = self.made.get(number)?;
        Some((Lsn(lsn.load(Ordering::Relaxed)), time.load(Ordering::Relaxed)))
    }
}

/// Everything that was made so far, by whichever session.
#[derive(Debug)]
pub struct Wal {
    made: Mutex<Made>,
    /// The small commits.
    pub commits: Commits,
}

#[derive(Debug)]
struct Made {
    /// A stream before each segment's first byte.
    marks: Vec<WalStream>,
    sums: Sums,
}

impl Wal {
    /// WAL of `bulk` bytes and then `commits_max` small commits.
    pub fn new(bulk: u64, commits_max: usize) -> Self {
        let made = Made { marks: vec![WalStream::new(START + bulk)], sums: Sums::default() };
        Self { made: Mutex::new(made), commits: Commits::new(commits_max) }
    }

    fn lock(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// End of what was made: the source's flush position.
    pub fn lsn(&self) -> Lsn {
        self.lock().sums.lsn()
    }

    /// Checksums of what was made.
    pub fn sums(&self) -> Sums {
        self.lock().sums.clone()
    }

    /// Begins again at `lsn`: the stream, and the bytes from `lsn` on that the stream is ahead.
    /// `None` when there is no such WAL.
    pub fn stream_from(&self, lsn: Lsn) -> Option<(WalStream, Vec<u8>)> {
        let mut stream = {
            let made = self.lock();
            if lsn > made.sums.lsn() {
                return None;
            }
            made.marks.iter().rev().find(|mark| mark.lsn() <= lsn)?.clone()
        };
        let mut bytes = Vec::new();
        loop {
            let missing = lsn.saturating_bytes_since(stream.lsn());
            if missing == 0 {
                let ahead = usize::try_from(stream.lsn() - lsn).unwrap_or(usize::MAX);
                let cut = bytes.len().saturating_sub(ahead);
                return Some((stream, bytes.split_off(cut)));
            }
            bytes.clear();
            stream.append_next(&mut bytes);
        }
    }

    /// End of the last record that ends at or before `lsn`. A flush may end inside a record, which
    /// is nobody's commit before it is whole: recovery begins again at its start, as PostgreSQL's.
    pub fn last_record_end(&self, lsn: Lsn) -> Lsn {
        let made = self.lock();
        let mark = made.marks.iter().rev().find(|mark| mark.lsn() <= lsn);
        let Some(mut stream) = mark.cloned() else { return START };
        drop(made);
        let mut end = stream.lsn();
        let mut bytes = Vec::new();
        while stream.lsn() <= lsn {
            end = stream.lsn();
            bytes.clear();
            stream.append_next(&mut bytes);
        }
        end
    }

    /// `bytes`, which begin at `start`, were made by a stream that then was `before`.
    pub fn add(&self, before: WalStream, start: Lsn, bytes: &[u8]) {
        let mut made = self.lock();
        let next_mark = START + len_u64(made.marks.len()) * SEGMENT.bytes();
        let end = start + len_u64(bytes.len());
        if end > next_mark && before.lsn() <= next_mark {
            made.marks.push(before);
        }
        made.sums.add(start, bytes);
    }
}

/// Lengths as positions count.
pub fn len_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BULK: u64 = 40 << 20;

    /// Makes all of the WAL as a session does.
    fn make(wal: &Wal, commits: usize) -> Vec<u8> {
        let (mut stream, mut all) = wal.stream_from(START).unwrap();
        while stream.commits() < commits {
            let (before, start, len) = (stream.clone(), stream.lsn(), all.len());
            while all.len() < len + (1 << 20) && stream.commits() < commits {
                stream.append_next(&mut all);
            }
            wal.add(before, start, &all[len..]);
        }
        all
    }

    #[test]
    fn any_position_can_be_made_again() {
        let wal = Wal::new(BULK, 3);
        let all = make(&wal, 3);
        assert_eq!(wal.lsn(), START + len_u64(all.len()));
        assert_eq!(wal.lock().marks.len(), 3);
        for offset in [0, 1, 24, 1000, (16 << 20) - 1, 16 << 20, (33 << 20) + 5, all.len() - 9] {
            let (mut stream, mut bytes) = wal.stream_from(START + len_u64(offset)).unwrap();
            while stream.lsn() < wal.lsn() {
                stream.append_next(&mut bytes);
            }
            assert!(bytes == all[offset..], "from {offset}");
            assert_eq!(stream.commits(), 3);
        }
        assert!(wal.stream_from(wal.lsn() + 1).is_none());
        assert_eq!(wal.last_record_end(wal.lsn()), wal.lsn());
        assert!(wal.last_record_end(Lsn(wal.lsn().0 - 1)) < wal.lsn());
        assert_eq!(wal.stream_from(wal.lsn()).unwrap().1, b"");
    }

    #[test]
    fn sums_do_not_depend_on_how_the_bytes_came() {
        let wal = Wal::new(BULK, 1);
        let all = make(&wal, 1);
        let mut sums = Sums::default();
        for (index, piece) in all.chunks(77_777).enumerate() {
            sums.add(START + len_u64(index * 77_777), piece);
        }
        assert_eq!(sums, wal.sums());
        assert_eq!(sums.finished().len(), 2);
        let again = all.len() - 100;
        sums.add(START + len_u64(again), &all[again..]);
        assert_eq!(sums, wal.sums());

        let mut changed = all;
        changed[20 << 20] ^= 1;
        let mut sums = Sums::default();
        sums.add(START, &changed);
        assert_ne!(sums.digest(), wal.sums().digest());
        assert_eq!(sums.finished()[0], wal.sums().finished()[0]);
        assert_ne!(sums.finished()[1], wal.sums().finished()[1]);
    }

    #[test]
    fn a_commit_keeps_its_first_time() {
        let commits = Commits::new(2);
        assert_eq!(commits.of(0), None);
        commits.publish(0, Lsn(8), 100);
        commits.publish(0, Lsn(8), 200);
        commits.publish(1, Lsn(16), 300);
        commits.publish(2, Lsn(24), 400);
        assert_eq!(commits.count(), 2);
        assert_eq!((commits.of(0), commits.of(1)), (Some((Lsn(8), 100)), Some((Lsn(16), 300))));
        assert_eq!(commits.of(2), None);
    }
}
