//! Files of the operating system, for who reads pg_hba.conf and pg_ident.conf.
//!
//! Not here: what is in them (`walhub_proto::hba`).

use std::fs;
use std::io;
use std::path::Path;

use walhub_proto::hba::{Files, Unreadable};

use super::files;
use crate::strerror::strerror;

/// The files of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct AuthFiles;

fn unreadable(error: &io::Error) -> Unreadable {
    Unreadable { is_missing: error.kind() == io::ErrorKind::NotFound, reason: strerror(error) }
}

impl Files for AuthFiles {
    fn read(&self, path: &str) -> Result<String, Unreadable> {
        let bytes = files::read(Path::new(path)).map_err(|error| unreadable(&error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn list(&self, path: &str) -> Result<Vec<String>, Unreadable> {
        let listed = fs::read_dir(path).and_then(|entries| {
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry?;
                // A link to a directory is one.
                if !fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir()) {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            Ok(names)
        });
        listed.map_err(|error| unreadable(&error))
    }
}
