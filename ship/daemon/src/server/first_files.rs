//! pg_hba.conf and pg_ident.conf of a data directory that has neither, because it is new or of an earlier walhub.
//!
//! PostgreSQL: `setup_config`, `main` (src/bin/initdb/initdb.c).

use walhub_proto::hba::{Method, initial_file, initial_ident_file};
use walhub_proto::wire::backend::Report;

use crate::datadir::DataDir;
use crate::settings::source::{HBA_FILE, IDENT_FILE};

/// Writes pg_ident.conf where there is none.
///
/// # Errors
/// When the operating system refuses.
pub(crate) fn write_ident_file(data_dir: &DataDir) -> Result<(), Box<Report>> {
    if data_dir.path().join(IDENT_FILE).exists() {
        return Ok(());
    }
    data_dir.write_file(IDENT_FILE, &initial_ident_file())
}

/// Writes both files where there is neither, and warns when they trust somebody.
///
/// Where there is one of them the other was removed by somebody: what is missing is missed when it is read.
///
/// # Errors
/// When the operating system refuses.
pub(crate) fn write_first_files(
    data_dir: &DataDir,
    local_method: Method,
    host_method: Method,
) -> Result<(), Box<Report>> {
    if [HBA_FILE, IDENT_FILE].iter().any(|name| data_dir.path().join(name).exists()) {
        return Ok(());
    }
    // The one that a start needs comes first, in case of a crash between the two.
    data_dir.write_file(HBA_FILE, &initial_file(local_method, host_method))?;
    write_ident_file(data_dir)?;
    if local_method == Method::Trust || host_method == Method::Trust {
        tracing::warn!(
            hint = "You can change this by editing pg_hba.conf or using the option -A, the next time \
                    you run walhub init.",
            "enabling \"trust\" authentication for local connections"
        );
    }
    Ok(())
}
