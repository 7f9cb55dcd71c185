//! What salts of roles are made of that have no secret: so that they are the same each time, after a restart too, and that
//! nobody else can compute them. PostgreSQL has it in its control file.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use walhub_proto::password::MOCK_NONCE_LEN;

use crate::random;

/// Its file.
pub(super) const FILE: &str = "walhub.mock_nonce";

/// Reads it, or makes one. It is there whole or not at all.
pub(super) fn read_or_create(file: &Path) -> io::Result<[u8; MOCK_NONCE_LEN]> {
    match fs::read(file) {
        Ok(nonce) => nonce.try_into().map_err(|_| io::ErrorKind::InvalidData.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let nonce = random::bytes();
            let directory = file.parent().unwrap_or_else(|| Path::new("."));
            // Only its owner may read what tempfile makes.
            let mut written = tempfile::NamedTempFile::new_in(directory)?;
            written.write_all(&nonce)?;
            written.as_file().sync_all()?;
            written.persist(file)?;
            File::open(directory)?.sync_all()?;
            Ok(nonce)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_and_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE);
        let nonce = read_or_create(&file).unwrap();
        assert_eq!(read_or_create(&file).unwrap(), nonce);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        fs::write(&file, "short").unwrap();
        assert_eq!(read_or_create(&file).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
