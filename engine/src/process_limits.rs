//! What the operating system allows this process, and the signal of one such limit.
//!
//! PostgreSQL: `InitProcessGlobals` and `pqinitmask` leave SIGXFSZ ignored (src/backend/postmaster/postmaster.c).

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Has a write beyond RLIMIT_FSIZE fail with EFBIG. Its signal would end the process without a word.
///
/// # Errors
/// When the system refuses.
pub fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: to ignore a signal runs no code of this process, now or later.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the process open as many descriptors as it may; returns how many, `None` for no limit.
pub fn raise_descriptors() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let allowed = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if allowed.is_ok() { maximum } else { current }
}

/// Bytes that a file may have, `None` for no limit.
#[must_use]
pub fn file_size_max() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    /// Set for the process whose files are limited.
    const LIMITED: &str = "WALHUB_TEST_FILE_SIZE";

    #[test]
    fn a_file_that_is_too_large_is_an_error_and_not_the_end() {
        if let Some(path) = std::env::var_os(LIMITED) {
            ignore_file_size_signal().unwrap();
            let limit = Rlimit { current: Some(4096), maximum: Some(4096) };
            setrlimit(Resource::Fsize, limit).unwrap();
            assert_eq!(file_size_max(), Some(4096));
            let mut file = File::create(path).unwrap();
            file.write_all(&[0; 4096]).unwrap();
            let error = file.write_all(&[0; 1]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let name = "process_limits::tests::a_file_that_is_too_large_is_an_error_and_not_the_end";
        child.args([name, "--exact"]).env(LIMITED, file.path());
        let output = child.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn descriptors_are_raised_to_what_is_allowed() {
        let allowed = getrlimit(Resource::Nofile).maximum;
        assert_eq!(raise_descriptors(), allowed);
        assert_eq!(getrlimit(Resource::Nofile).current, allowed);
    }
}
