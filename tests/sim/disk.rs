//! One machine's disk: what is written, what is durable, and what a power cut leaves.
//!
//! The fault model, by zone. walhub claims to survive every fault listed here:
//!
//! | zone | faults |
//! |---|---|
//! | data of a file | A completed write is durable only after a later `Sync` of the file, or when it was itself durable. At a crash every sector of 512 bytes that was not durable is as it was durable, or as any of the writes since had left it, each on its own: writes are torn, lost and reordered, those under way included. |
//! | length of a file | As its data: a sector that survives beyond the old end takes the length with it, and what lies between is zeros. |
//! | names | Creation, rename and removal are durable only after `SyncDir`. At a crash each one is done or not, except that none is done without those before it that had to do with the same names. A rename is done whole or not at all. |
//! | transfers | Writes and reads are short. Direct I/O that is not aligned fails with EINVAL. |
//! | room | Writes that need new room fail with ENOSPC for a while, on some disks all writes. |
//! | errors | Now and then a write, a read, a rename, a removal or a flush fails with EIO and an open with EMFILE. A write that failed was made or not. A failed flush of WAL, or write of it, ends the process, which recovers; so does one of the control file that is waited for. What is made ready for later is tried again; a file that cannot be read or opened ends one session; a save that failed is made again. |
//! | time | Every operation takes its own time, now and then very long; operations overtake each other. |
//!
//! Outside the model: a sector of which a write was interrupted is old or new, never garbage; data
//! that a completed flush covers is never lost or altered, and is read back as it is; after a flush that failed
//! the next one still covers what that one did not. A disk that lies about flushes exists ([`DiskFaults::lies`]) to prove that the checkers notice.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use walhub_engine::io::{DirEntry, Fs};

use crate::rng::{Rng, bytes, size};

/// What a power cut keeps or loses as a whole.
pub(crate) const SECTOR: usize = 512;

/// Which faults a disk has, in cases of a thousand.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskFaults {
    /// Writes that end early.
    pub(crate) short_write: u64,
    /// Reads that end early.
    pub(crate) short_read: u64,
    /// Operations that take very long.
    pub(crate) slow: u64,
    /// A full disk takes no writes at all, not even over old ones.
    pub(crate) full_blocks_all: bool,
    /// Operations that fail, in cases of ten thousand.
    pub(crate) errors: u64,
    /// Flushes that say "done" and did nothing. Outside the fault model.
    pub(crate) lies: bool,
    /// When the machine or the process stops, a bit changes of what was durable long before. Outside the
    /// fault model.
    pub(crate) rots: bool,
    /// Nanoseconds that each kilobyte of a read or write takes, beside what the operation does.
    pub(crate) ns_per_kib: u64,
}

/// Written bytes that are not durable.
#[derive(Clone, Debug)]
struct Dirty {
    start: usize,
    content: Vec<u8>,
    number: u64,
}

impl Dirty {
    fn end(&self) -> usize {
        self.start + self.content.len()
    }

    /// What is left of it without the bytes of `range`.
    fn without(self, range: &Range<usize>) -> Vec<Self> {
        let (start, end) = (self.start, self.end());
        let part = |part: Range<usize>| {
            let content = self.content.get(part.start - start..part.end - start)?.to_vec();
            (!content.is_empty()).then_some(Self {
                start: part.start,
                content,
                number: self.number,
            })
        };
        let before = start..end.min(range.start).max(start);
        let after = start.max(range.end).min(end)..end;
        [before, after].into_iter().filter_map(part).collect()
    }
}

#[derive(Clone, Debug, Default)]
struct File {
    data: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<Dirty>,
    opens: u32,
}

impl File {
    /// These bytes were written, and are not durable.
    fn note_dirty(&mut self, start: usize, end: usize, number: u64) {
        let content = self.data[start..end].to_vec();
        self.dirty.push(Dirty { start, content, number });
    }

    /// These bytes are durable, and the rest of their sectors with them.
    fn make_durable(&mut self, start: usize, end: usize) {
        let end = end.next_multiple_of(SECTOR).min(self.data.len());
        let range = start / SECTOR * SECTOR..end;
        put(&mut self.durable, range.start, &self.data[range.clone()]);
        let dirty = std::mem::take(&mut self.dirty);
        self.dirty = dirty.into_iter().flat_map(|dirty| dirty.without(&range)).collect();
    }
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn touches(&self) -> [Option<&Path>; 2] {
        match self {
            Self::Create(path, _) | Self::Remove(path) => [Some(path), None],
            Self::Rename(from, to) => [Some(from), Some(to)],
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Create(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

/// A flush under way: of exactly what was written when it was submitted.
#[derive(Debug)]
pub(crate) struct Flush {
    file: u64,
    up_to: u64,
}

/// One machine's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    rng: Rng,
    pub(crate) faults: DiskFaults,
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    changes: Vec<(u64, NameChange)>,
    under_way: BTreeMap<u64, (u64, usize, Vec<Bytes>)>,
    number: u64,
    /// Whether there is no room.
    pub(crate) full: bool,
    /// The power is off: nothing that is asked for now happens.
    pub(crate) dead: bool,
    /// Operations until the power goes off.
    pub(crate) crash_in: Option<u64>,
    /// A file, or a directory of files: so many operations after the next write there, which is not flushed
    /// then, the power goes off.
    pub(crate) crash_at: Option<(PathBuf, u64)>,
    /// Names that were removed or renamed away, for the checkers.
    pub(crate) gone: Vec<PathBuf>,
    /// Operations that failed for no reason.
    pub(crate) failed: u64,
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("could not open file \"{}\": No such file or directory", path.display()),
    )
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}

/// What an operation fails with for no reason of its own.
pub(crate) const EIO: i32 = 5;
pub(crate) const EMFILE: i32 = 24;

impl Disk {
    pub(crate) fn new(rng: Rng, faults: DiskFaults) -> Self {
        Self {
            rng,
            faults,
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            dirs: BTreeSet::new(),
            changes: Vec::new(),
            under_way: BTreeMap::new(),
            number: 0,
            full: false,
            dead: false,
            crash_in: None,
            crash_at: None,
            gone: Vec::new(),
            failed: 0,
        }
    }

    /// Counts one operation; false when the power is off.
    pub(crate) fn step(&mut self) -> bool {
        if let Some(left) = &mut self.crash_in {
            if *left == 0 {
                self.dead = true;
                self.crash_in = None;
            } else {
                *left -= 1;
            }
        }
        !self.dead
    }

    /// Whether an operation fails now, and with what: with `errno`.
    pub(crate) fn fail(&mut self, errno: i32) -> io::Result<()> {
        if self.faults.errors == 0 || self.rng.below(10_000) >= self.faults.errors {
            return Ok(());
        }
        self.failed += 1;
        Err(io::Error::from_raw_os_error(errno))
    }

    /// How long an operation on so many bytes takes, in nanoseconds.
    pub(crate) fn latency(&mut self, flush: bool, len: usize) -> u64 {
        let base = if flush {
            self.rng.log_range(50_000, 4_000_000)
        } else {
            self.rng.log_range(5_000, 300_000)
        };
        let base = base + (bytes(len) >> 10) * self.faults.ns_per_kib;
        if self.rng.chance(self.faults.slow) {
            base + self.rng.range(20_000_000, 900_000_000)
        } else {
            base
        }
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn change(&mut self, change: NameChange) {
        if let NameChange::Rename(from, _) | NameChange::Remove(from) = &change {
            self.gone.push(from.clone());
        }
        change.apply(&mut self.names);
        let number = self.next_number();
        self.changes.push((number, change));
    }

    fn lookup(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| not_found(path))
    }

    pub(crate) fn open(&mut self, path: &Path, create: bool) -> io::Result<u64> {
        let file = match self.lookup(path) {
            Ok(file) => file,
            Err(error) if !create => return Err(error),
            Err(error) => {
                if !path.parent().is_some_and(|dir| self.dirs.contains(dir)) {
                    return Err(error);
                }
                if self.full {
                    return Err(no_space());
                }
                let file = self.next_file;
                self.next_file += 1;
                self.files.insert(file, File::default());
                self.change(NameChange::Create(path.to_path_buf(), file));
                file
            }
        };
        self.files.get_mut(&file).expect("a named file").opens += 1;
        Ok(file)
    }

    pub(crate) fn close(&mut self, file: u64) {
        if let Some(file) = self.files.get_mut(&file) {
            file.opens -= 1;
        }
    }

    /// Begins a write; it is done, whole or short, when [`Disk::finish_write`] says so.
    pub(crate) fn begin_write(&mut self, file: u64, offset: u64, data: Vec<Bytes>) -> u64 {
        let number = self.next_number();
        self.under_way.insert(number, (file, size(offset), data));
        number
    }

    /// Ends a write; `unit` is what a short one is a multiple of.
    pub(crate) fn finish_write(
        &mut self,
        write: u64,
        durable: bool,
        unit: usize,
    ) -> io::Result<usize> {
        let (file_number, offset, data) =
            self.under_way.remove(&write).expect("the write is under way");
        let mut len: usize = data.iter().map(Bytes::len).sum();
        let file = self.files.get_mut(&file_number).expect("an open file");
        if self.full && (self.faults.full_blocks_all || offset + len > file.data.len()) {
            return Err(no_space());
        }
        if len > unit && self.rng.chance(self.faults.short_write) {
            let units = len.div_ceil(unit) - 1;
            len = unit * size(self.rng.range(1, bytes(units)));
        }
        let failed = self.fail(EIO);
        if failed.is_err() && self.rng.chance(500) {
            return failed.map(|()| 0);
        }
        let number = self.next_number();
        let lies = self.faults.lies;
        let file = self.files.get_mut(&file_number).expect("an open file");
        write_at(&mut file.data, offset, &data, len);
        if failed.is_err() {
            file.note_dirty(offset, offset + len, number);
            return failed.map(|()| 0);
        }
        if durable && !lies {
            file.make_durable(offset, offset + len);
        } else {
            file.note_dirty(offset, offset + len, number);
            let is_there = |(name, number): (&PathBuf, &u64)| {
                *number == file_number
                    && self.crash_at.as_ref().is_some_and(|(path, _)| name.starts_with(path))
            };
            if self.names.iter().any(is_there) {
                self.crash_in = self.crash_at.take().map(|(_, operations)| operations);
            }
        }
        Ok(len)
    }

    /// Takes room for a file, as far as this file system can.
    pub(crate) fn allocate(&mut self, file: u64, len: u64) -> io::Result<()> {
        if self.rng.chance(100) {
            return Err(io::Error::from_raw_os_error(95));
        }
        let number = self.next_number();
        let (full, file) = (self.full, self.files.get_mut(&file).expect("an open file"));
        let (start, end) = (file.data.len(), size(len));
        if start < end {
            if full {
                return Err(no_space());
            }
            file.data.resize(end, 0);
            file.note_dirty(start, end, number);
        }
        Ok(())
    }

    pub(crate) fn read(&mut self, file: u64, offset: u64, len: usize, unit: usize) -> Vec<u8> {
        let data = &self.files.get(&file).expect("an open file").data;
        let start = size(offset).min(data.len());
        let mut end = (start + len).min(data.len());
        if end - start > unit && self.rng.chance(self.faults.short_read) {
            let units = (end - start).div_ceil(unit) - 1;
            end = start + unit * size(self.rng.range(1, bytes(units)));
        }
        data[start..end].to_vec()
    }

    /// What the page cache holds of a range, from its beginning: all, a part or nothing.
    pub(crate) fn read_cached(&mut self, file: u64, offset: u64, len: usize) -> Vec<u8> {
        let cached = match self.rng.range(0, 4) {
            0 => 0,
            1 => size(self.rng.range(0, bytes(len))),
            _ => len,
        };
        let data = &self.files.get(&file).expect("an open file").data;
        let start = size(offset).min(data.len());
        data[start..(start + cached).min(data.len())].to_vec()
    }

    /// Begins a flush: it covers the writes that are done now.
    pub(crate) fn begin_flush(&mut self, file: u64) -> Flush {
        Flush { file, up_to: self.number }
    }

    pub(crate) fn finish_flush(&mut self, flush: Flush) {
        if self.faults.lies {
            return;
        }
        let Some(file) = self.files.get_mut(&flush.file) else { return };
        let (covered, left) = std::mem::take(&mut file.dirty)
            .into_iter()
            .partition(|dirty| dirty.number <= flush.up_to);
        file.dirty = left;
        for dirty in covered {
            put(&mut file.durable, dirty.start, &dirty.content);
        }
    }

    /// Number that a directory flush begun now covers changes up to.
    pub(crate) fn begin_dir_flush(&self) -> u64 {
        self.number
    }

    pub(crate) fn finish_dir_flush(&mut self, dir: &Path, up_to: u64) {
        if self.faults.lies {
            return;
        }
        let durable_names = &mut self.durable_names;
        self.changes.retain(|(number, change)| {
            let covered =
                *number <= up_to && change.touches()[0].and_then(Path::parent) == Some(dir);
            if covered {
                change.apply(durable_names);
            }
            !covered
        });
        self.drop_unnamed();
    }

    /// Frees files that no name and nobody has any more.
    fn drop_unnamed(&mut self) {
        let mut named: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).copied().collect();
        for (_, change) in &self.changes {
            if let NameChange::Create(_, file) = change {
                named.insert(*file);
            }
        }
        self.files.retain(|number, file| file.opens > 0 || named.contains(number));
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.lookup(from)?;
        self.change(NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    pub(crate) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.lookup(path)?;
        self.change(NameChange::Remove(path.to_path_buf()));
        Ok(())
    }

    /// The power goes off and on again.
    pub(crate) fn crash(&mut self) {
        // Writes under way had begun: their sectors may have arrived.
        let under_way = std::mem::take(&mut self.under_way);
        for (number, (file, offset, data)) in under_way {
            let len = data.iter().map(Bytes::len).sum();
            if let Some(file) = self.files.get_mut(&file) {
                write_at(&mut file.data, offset, &data, len);
                file.note_dirty(offset, offset + len, number);
            }
        }
        self.settle_names();
        let Self { rng, files, durable_names, .. } = self;
        let named: BTreeSet<u64> = durable_names.values().copied().collect();
        files.retain(|number, _| named.contains(number));
        for file in files.values_mut() {
            settle_data(file, rng);
        }
        self.names = self.durable_names.clone();
        self.dead = false;
        self.crash_in = None;
    }

    /// The process is killed; the machine goes on. Writes under way are done or not.
    pub(crate) fn kill(&mut self) {
        for (number, (file, offset, data)) in std::mem::take(&mut self.under_way) {
            let len = data.iter().map(Bytes::len).sum();
            let done = self.rng.chance(500);
            if let Some(file) = self.files.get_mut(&file).filter(|_| done) {
                write_at(&mut file.data, offset, &data, len);
                file.note_dirty(offset, offset + len, number);
            }
        }
        for file in self.files.values_mut() {
            file.opens = 0;
        }
        self.drop_unnamed();
        self.dead = false;
        self.crash_in = None;
    }

    fn settle_names(&mut self) {
        let mut lost: BTreeSet<PathBuf> = BTreeSet::new();
        // Most journals keep a prefix; some keep each directory entry on its own.
        let prefix = self.rng.chance(500);
        let mut all_lost = false;
        for (_, change) in std::mem::take(&mut self.changes) {
            let depends = change.touches().into_iter().flatten().any(|path| lost.contains(path));
            if depends || all_lost || self.rng.chance(500) {
                all_lost |= prefix;
                lost.extend(change.touches().into_iter().flatten().map(Path::to_path_buf));
            } else {
                change.apply(&mut self.durable_names);
            }
        }
    }

    /// Changes a bit of a file.
    pub(crate) fn rot(&mut self, path: &Path, offset: u64) {
        let Some(file) = self.names.get(path).and_then(|file| self.files.get_mut(file)) else {
            return;
        };
        for content in [&mut file.data, &mut file.durable] {
            if let Some(byte) = content.get_mut(size(offset)) {
                *byte ^= 1;
            }
        }
    }

    /// The whole content of a file as programs see it.
    pub(crate) fn content(&self, path: &Path) -> Option<&[u8]> {
        Some(&self.files.get(self.names.get(path)?)?.data)
    }
}

/// Leaves of every sector one of the versions that it had since it was durable.
fn settle_data(file: &mut File, rng: &mut Rng) {
    let dirty = std::mem::take(&mut file.dirty);
    // What was written, as it was after each write, one after the other; most files have none of it.
    let first = dirty.iter().map(|dirty| dirty.start).min().unwrap_or(0) / SECTOR * SECTOR;
    let last = dirty.iter().map(Dirty::end).max().unwrap_or(0).next_multiple_of(SECTOR);
    let mut content =
        file.durable.get(first..last.min(file.durable.len())).unwrap_or_default().to_vec();
    for dirty in dirty {
        put(&mut content, dirty.start - first, &dirty.content);
        // All new and all old are as likely as a mixture.
        let keep = rng.pick(&[0, 500, 1000]);
        let mut start = dirty.start;
        while start < dirty.end() {
            let sector = start / SECTOR * SECTOR;
            let end = (sector + SECTOR).min(first + content.len());
            if rng.chance(keep) {
                put(&mut file.durable, sector, &content[sector - first..end - first]);
            }
            start = sector + SECTOR;
        }
    }
    if file.data != file.durable {
        file.data.clone_from(&file.durable);
    }
    file.opens = 0;
}

fn put(to: &mut Vec<u8>, offset: usize, content: &[u8]) {
    let end = offset + content.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[offset..end].copy_from_slice(content);
}

fn write_at(to: &mut Vec<u8>, offset: usize, data: &[Bytes], len: usize) {
    if to.len() < offset + len {
        to.resize(offset + len, 0);
    }
    let mut at = offset;
    for piece in data {
        let count = piece.len().min(offset + len - at);
        to[at..at + count].copy_from_slice(&piece[..count]);
        at += count;
    }
}

/// Blocking access to a machine's disk. After the power went off nothing happens any more, and
/// nobody is told: whoever asks is dead too.
#[derive(Clone, Debug)]
pub(crate) struct SimFs(pub(crate) Arc<Mutex<Disk>>);

impl SimFs {
    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fs for SimFs {
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let disk = self.disk();
        if !disk.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let files = disk
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir))
            .map(|(path, file)| (path, bytes(disk.files[file].data.len())));
        let dirs = disk.dirs.iter().filter(|path| path.parent() == Some(dir)).map(|path| (path, 0));
        let name = |path: &PathBuf| {
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let mut entries: Vec<DirEntry> =
            files.chain(dirs).map(|(path, len)| DirEntry { name: name(path), len }).collect();
        entries.sort();
        Ok(entries)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut disk = self.disk();
        disk.fail(EIO)?;
        disk.content(path).map(<[u8]>::to_vec).ok_or_else(|| not_found(path))
    }

    fn read_at(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut disk = self.disk();
        disk.fail(EIO)?;
        let content = disk.content(path).ok_or_else(|| not_found(path))?;
        let rest = content.get(size(offset)..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, path: &Path, offset: u64, content: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        if !disk.step() {
            return Ok(());
        }
        disk.fail(EMFILE)?;
        let file = disk.open(path, true)?;
        let data = vec![Bytes::copy_from_slice(content)];
        let write = disk.begin_write(file, offset, data);
        // A blocking call writes all of it, in as many pieces as it takes.
        let short = std::mem::take(&mut disk.faults.short_write);
        let result = disk.finish_write(write, false, SECTOR).map(drop);
        disk.faults.short_write = short;
        disk.close(file);
        result
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        if disk.step() {
            disk.fail(EIO)?;
            let file = disk.lookup(path)?;
            let flush = disk.begin_flush(file);
            disk.finish_flush(flush);
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        if disk.step() {
            disk.fail(EIO)?;
            let up_to = disk.begin_dir_flush();
            disk.finish_dir_flush(path, up_to);
        }
        Ok(())
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        if self.disk().names.contains_key(&temporary) {
            self.remove(&temporary)?;
        }
        self.write_at(&temporary, 0, content)?;
        self.sync(&temporary)?;
        self.rename(&temporary, path)?;
        match path.parent() {
            Some(dir) => self.sync_dir(dir),
            None => Ok(()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        if !disk.step() {
            return Ok(());
        }
        disk.fail(EIO)?;
        disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        if !disk.step() {
            return Ok(());
        }
        disk.fail(EIO)?;
        disk.unlink(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        // Directories are made once, before anything matters: they are durable at once.
        let mut disk = self.disk();
        disk.dirs.extend(path.ancestors().map(Path::to_path_buf));
        Ok(())
    }
}
