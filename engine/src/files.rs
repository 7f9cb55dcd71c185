//! Blocking file access on the operating system: [`OsFs`].

use std::error::Error;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::io::{DirEntry, Fs};

/// Mode of every file made: the owner's alone. PostgreSQL: `PG_FILE_MODE_OWNER`.
const FILE_MODE: u32 = 0o600;

/// Mode of every directory made. PostgreSQL: `PG_DIR_MODE_OWNER`.
const DIR_MODE: u32 = 0o700;

/// Suffix of the file that [`Fs::replace`] writes before it renames it.
const REPLACE_SUFFIX: &str = ".tmp";

/// The operating system's files.
#[derive(Clone, Copy, Default, Debug)]
pub struct OsFs;

/// What failed on which path, worded as PostgreSQL words it.
#[derive(Debug)]
struct PathError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, path, source } = self;
        write!(f, "could not {action} \"{}\": {}", path.display(), reason(source))
    }
}

impl Error for PathError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// The system's message as C programs print it (`%m`), without Rust's note of the number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error().map(|errno| format!(" (os error {errno})")) {
        Some(note) => text.strip_suffix(&note).map_or_else(|| text.clone(), str::to_owned),
        None => text,
    }
}

/// Whether a read failed in a way that says nothing about the content: the device, the limits and the
/// permissions of this moment. A FIFO or a directory in a file's place does not pass.
#[must_use]
pub fn is_read_failure(error: &io::Error) -> bool {
    let passing = [
        Errno::IO,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::AGAIN,
        Errno::INTR,
        Errno::ACCESS,
        Errno::PERM,
        Errno::STALE,
        Errno::TIMEDOUT,
    ];
    errno(error).is_some_and(|errno| passing.iter().any(|passing| passing.raw_os_error() == errno))
}

/// The system's error number, also of an error that an [`Fs`] has put a path to.
#[must_use]
pub fn errno(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| {
        error.get_ref()?.downcast_ref::<PathError>().and_then(|error| error.source.raw_os_error())
    })
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |source| io::Error::new(source.kind(), PathError { action, path: path.to_owned(), source })
}

/// Opens a file, and nothing else: to open a FIFO waits for who opens its other end.
fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let no_file = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(at("open file", path)(no_file())),
        // Whatever is wrong, the open says it too.
        Ok(_) | Err(_) => {}
    }
    let file = options.custom_flags(libc::O_NONBLOCK).open(path).map_err(at("open file", path))?;
    // It may have changed meanwhile.
    if !file.metadata().map_err(at("stat file", path))?.is_file() {
        return Err(at("open file", path)(no_file()));
    }
    Ok(file)
}

fn open_existing(path: &Path) -> io::Result<File> {
    open_regular(path, OpenOptions::new().read(true))
}

impl Fs for OsFs {
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let entries = fs::read_dir(dir).map_err(at("open directory", dir))?;
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(at("read directory", dir))?;
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // Gone since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at("stat file", &entry.path())(error)),
            };
            // No file of ours has a name that is not UTF-8.
            let Ok(name) = entry.file_name().into_string() else { continue };
            listed.push(DirEntry { name, len: if meta.is_dir() { 0 } else { meta.len() } });
        }
        listed.sort();
        Ok(listed)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        open_existing(path)?.read_to_end(&mut bytes).map_err(at("read file", path))?;
        Ok(bytes)
    }

    fn read_at(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = open_existing(path)?;
        let mut done = 0;
        while done < buf.len() {
            let position = offset + u64::try_from(done).expect("a length fits 64 bits");
            match file.read_at(&mut buf[done..], position) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at("read file", path)(error)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = open_regular(path, &mut options)?;
        file.write_all_at(bytes, offset).map_err(at("write to file", path))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        open_existing(path)?.sync_all().map_err(at("fsync file", path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let dir = File::open(path).map_err(at("open directory", path))?;
        dir.sync_all().map_err(at("fsync directory", path))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(REPLACE_SUFFIX);
        let temporary = PathBuf::from(temporary);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(FILE_MODE);
        let mut file = options.open(&temporary).map_err(at("create file", &temporary))?;
        file.write_all(bytes).map_err(at("write to file", &temporary))?;
        file.sync_all().map_err(at("fsync file", &temporary))?;
        drop(file);
        self.rename(&temporary, path)?;
        self.sync_dir(parent(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).map_err(at("rename file", from))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(at("remove file", path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIR_MODE);
        builder.create(path).map_err(at("create directory", path))
    }
}

/// The directory that holds `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn writes_reads_and_lists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        OsFs.write_at(&path, 3, b"def").unwrap();
        OsFs.write_at(&path, 0, b"abc").unwrap();
        OsFs.create_dir(&dir.path().join("a/nested")).unwrap();
        OsFs.create_dir(&dir.path().join("a/nested")).unwrap();
        OsFs.sync(&path).unwrap();
        OsFs.sync_dir(dir.path()).unwrap();
        assert_eq!(OsFs.read(&path).unwrap(), b"abcdef");
        assert_eq!((mode(&path), mode(&dir.path().join("a/nested"))), (0o600, 0o700));
        let entry = |name: &str, len| DirEntry { name: name.to_owned(), len };
        assert_eq!(OsFs.list(dir.path()).unwrap(), [entry("a", 0), entry("b", 6)]);
    }

    #[test]
    fn read_at_stops_at_the_end_of_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        OsFs.write_at(&path, 0, b"0123456789").unwrap();
        let mut buf = [b'x'; 4];
        assert_eq!(OsFs.read_at(&path, 2, &mut buf).unwrap(), 4);
        assert_eq!(&buf, b"2345");
        assert_eq!(OsFs.read_at(&path, 8, &mut buf).unwrap(), 2);
        assert_eq!(&buf[..2], b"89");
        assert_eq!(OsFs.read_at(&path, 100, &mut buf).unwrap(), 0);
    }

    #[test]
    fn replace_leaves_only_the_new_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        OsFs.replace(&path, b"a longer first version").unwrap();
        OsFs.replace(&path, b"second").unwrap();
        assert_eq!(OsFs.read(&path).unwrap(), b"second");
        assert_eq!(OsFs.list(dir.path()).unwrap().len(), 1);
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn rename_and_remove() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        OsFs.write_at(&from, 0, b"new").unwrap();
        OsFs.write_at(&to, 0, b"old").unwrap();
        OsFs.rename(&from, &to).unwrap();
        assert_eq!(OsFs.read(&to).unwrap(), b"new");
        OsFs.remove(&to).unwrap();
        assert!(OsFs.list(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn errors_name_the_path_and_keep_kind_and_number() {
        let error = OsFs.read(Path::new("/nowhere/file")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not open file \"/nowhere/file\": No such file or directory"
        );
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(errno(&error), Some(libc::ENOENT));
        assert_eq!(reason(&io::Error::from_raw_os_error(libc::EIO)), "Input/output error");
    }

    #[test]
    fn what_is_no_file_is_refused_and_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&path, &socket, &dir.path().to_owned()] {
            let want = format!("could not open file \"{}\": not a regular file", path.display());
            assert_eq!(OsFs.read(path).unwrap_err().to_string(), want);
            assert_eq!(OsFs.read_at(path, 0, &mut [0; 8]).unwrap_err().to_string(), want);
            assert_eq!(OsFs.write_at(path, 0, b"x").unwrap_err().to_string(), want);
            assert_eq!(OsFs.sync(path).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn parent_of_a_bare_name_is_the_working_directory() {
        assert_eq!(parent(Path::new("file")), Path::new("."));
        assert_eq!(parent(Path::new("dir/file")), Path::new("dir"));
    }
}
