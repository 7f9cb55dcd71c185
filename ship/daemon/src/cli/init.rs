//! `walhub init`: a data directory for WAL of walhub's own, its superuser, and who may come in at first.
//!
//! PostgreSQL: src/bin/initdb/initdb.c.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use walhub_proto::hba::Method;
use walhub_proto::password::{Encryption, SCRAM_ITERATIONS_DEFAULT, SCRAM_SALT_LEN, encrypt};
use walhub_proto::roles::predefined::is_reserved;
use walhub_proto::segment::SegmentSize;

use super::{Cli, DataDirArgs, log_setting_errors, report_end};
use crate::datadir::DataDir;
use crate::logging::{self, LogConfig};
use crate::random;
use crate::roles::{self, SUPERUSER_DEFAULT};
use crate::server::{self, FirstRules};
use crate::settings::source::parse_assignment;
use crate::settings::{PasswordEncryption, Settings, Sources};
use crate::strerror::strerror;

#[derive(Args, Debug)]
pub(super) struct InitArgs {
    #[command(flatten)]
    pub(super) data_dir: DataDirArgs,
    /// Size of WAL segments, in megabytes: a power of two between 1 and 1024.
    #[arg(long, value_name = "MB", default_value_t = 16)]
    wal_segsize: u32,
    /// Name of the superuser: by default that of the operating system's user, and "postgres" for root.
    #[arg(short = 'U', long, value_name = "NAME")]
    username: Option<String>,
    /// Prompt for a password of the superuser.
    #[arg(short = 'W', long)]
    pwprompt: bool,
    /// Read the password of the superuser from the first line of a file.
    #[arg(long, value_name = "FILE")]
    pwfile: Option<PathBuf>,
    /// Authentication method of the lines that pg_hba.conf begins with.
    #[arg(short = 'A', long, value_name = "METHOD", value_parser = parse_method)]
    auth: Option<Method>,
    /// The same, for Unix sockets alone.
    #[arg(long, value_name = "METHOD", value_parser = parse_local_method)]
    auth_local: Option<Method>,
    /// The same, for TCP/IP from this machine alone.
    #[arg(long, value_name = "METHOD", value_parser = parse_host_method)]
    auth_host: Option<Method>,
    /// Set a setting; wal_page_magic, password_encryption and scram_iterations matter here.
    #[arg(short = 'c', value_name = "NAME=VALUE", value_parser = parse_assignment)]
    assignments: Vec<(String, String)>,
}

/// Methods that a first pg_hba.conf may have.
const METHODS: [(&str, Method); 7] = [
    ("trust", Method::Trust),
    ("reject", Method::Reject),
    ("scram-sha-256", Method::ScramSha256),
    ("md5", Method::Md5),
    ("password", Method::Password),
    ("peer", Method::Peer),
    ("cert", Method::Cert),
];

fn parse_method(text: &str) -> Result<Method, String> {
    let method = METHODS.iter().find(|(name, _)| *name == text).map(|(_, method)| *method);
    method.ok_or_else(|| "invalid authentication method".to_owned())
}

/// PostgreSQL: `auth_methods_local`.
pub(super) fn parse_local_method(text: &str) -> Result<Method, String> {
    match parse_method(text)? {
        Method::Cert => Err("it is not one for local connections".to_owned()),
        method => Ok(method),
    }
}

/// PostgreSQL: `auth_methods_host`.
pub(super) fn parse_host_method(text: &str) -> Result<Method, String> {
    match parse_method(text)? {
        Method::Peer => Err("it is not one for host connections".to_owned()),
        method => Ok(method),
    }
}

/// Whether logging in by it takes a password.
const fn needs_password(method: Method) -> bool {
    matches!(method, Method::Password | Method::Md5 | Method::ScramSha256)
}

fn wrong_usage(message: impl std::fmt::Display) -> ! {
    Cli::command().error(ErrorKind::ValueValidation, message).exit()
}

impl InitArgs {
    /// For Unix sockets, and for TCP/IP.
    fn methods(&self) -> FirstRules {
        let both = self.auth.unwrap_or(Method::Trust);
        let local = self.auth_local.unwrap_or(both);
        let host = self.auth_host.unwrap_or(both);
        // initdb turns one into ident for the other, which walhub does not have.
        if host == Method::Peer {
            wrong_usage(
                "authentication method \"peer\" is for Unix sockets: give --auth-host as well",
            );
        }
        if local == Method::Cert {
            wrong_usage("authentication method \"cert\" is for TCP/IP: give --auth-local as well");
        }
        let has_password = self.pwprompt || self.pwfile.is_some();
        if needs_password(local) && needs_password(host) && !has_password {
            wrong_usage(
                "must specify a password for the superuser to enable password authentication",
            );
        }
        FirstRules { local, host }
    }

    fn superuser(&self) -> String {
        let name = self.username.clone().unwrap_or_else(|| superuser_default(current_user()));
        if is_reserved(&name) {
            wrong_usage(format_args!(
                "superuser name \"{name}\" is disallowed; role names cannot begin with \"pg_\""
            ));
        }
        if name.is_empty() || name == "public" || name == "none" {
            wrong_usage(format_args!("superuser name \"{name}\" is disallowed"));
        }
        name
    }

    /// PostgreSQL: `get_su_pwd`.
    fn password(&self) -> Result<Option<String>, String> {
        match (&self.pwfile, self.pwprompt) {
            (Some(_), true) => {
                wrong_usage("password prompt and password file cannot be specified together")
            }
            (Some(file), false) => read_password(file).map(Some),
            (None, true) => prompt_password().map(Some),
            (None, false) => Ok(None),
        }
    }
}

/// The user that the process is of, if the system knows its name.
fn current_user() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id == uid).then(|| name.to_owned())
    })
}

/// Unlike initdb, which does not run as root, walhub does: its superuser is then the name that everybody expects.
fn superuser_default(user: Option<String>) -> String {
    user.filter(|name| name != "root").unwrap_or_else(|| SUPERUSER_DEFAULT.to_owned())
}

fn read_password(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let failed = |what: &str, error: &io::Error| {
        format!("could not {what} file \"{shown}\": {}", strerror(error))
    };
    let opened = File::open(file).map_err(|error| failed("open", &error))?;
    let mut line = String::new();
    BufReader::new(opened)
        .read_line(&mut line)
        .map_err(|error| failed("read password from", &error))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(format!("password file \"{shown}\" is empty"));
    }
    Ok(password.to_owned())
}

fn prompt_password() -> Result<String, String> {
    let first = ask("Enter new superuser password: ")?;
    if first != ask("Enter it again: ")? {
        return Err("Passwords didn't match.".to_owned());
    }
    Ok(first)
}

/// Asks at the terminal, which does not show what is typed. PostgreSQL: `simple_prompt`.
fn ask(prompt: &str) -> Result<String, String> {
    let failed =
        |error: io::Error| format!("could not read from the terminal: {}", strerror(&error));
    let mut terminal =
        OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(failed)?;
    terminal.write_all(prompt.as_bytes()).map_err(failed)?;
    let before = tcgetattr(terminal.as_fd()).map_err(|error| failed(error.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(terminal.as_fd(), OptionalActions::Flush, &silent)
        .map_err(|error| failed(error.into()))?;
    let mut line = String::new();
    let read = BufReader::new(&terminal).read_line(&mut line);
    // Whatever came of it, the terminal is to be as it was.
    let restored = tcsetattr(terminal.as_fd(), OptionalActions::Flush, &before);
    terminal.write_all(b"\n").map_err(failed)?;
    read.map_err(failed)?;
    restored.map_err(|error| failed(error.into()))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// What is kept of the superuser's password.
fn secret_of(settings: &Settings, superuser: &str, password: &str) -> Result<String, String> {
    if password.is_empty() {
        return Err("the password of the superuser is empty".to_owned());
    }
    let iterations = std::num::NonZeroU32::new(settings.scram_iterations);
    let encryption = match settings.password_encryption {
        PasswordEncryption::Md5 => Encryption::Md5,
        PasswordEncryption::ScramSha256 => {
            Encryption::ScramSha256 { iterations: iterations.unwrap_or(SCRAM_ITERATIONS_DEFAULT) }
        }
    };
    let salt: [u8; SCRAM_SALT_LEN] = random::bytes();
    Ok(String::clone(&encrypt(encryption, superuser, password, &salt)))
}

/// Makes the directory.
pub(super) fn run(args: &InitArgs) -> ExitCode {
    let path = args.data_dir.path();
    logging::init(LogConfig::from(&Settings::default()));
    let Some(size) = SegmentSize::new(u64::from(args.wal_segsize) << 20) else {
        wrong_usage("argument of --wal-segsize must be a power of two between 1 and 1024")
    };
    let (rules, superuser) = (args.methods(), args.superuser());
    let sources = Sources { command_line: args.assignments.clone(), ..Sources::default() };
    let settings = match sources.load() {
        Ok(settings) => settings,
        Err(errors) => {
            log_setting_errors(&sources, &errors);
            return ExitCode::FAILURE;
        }
    };
    let password = args.password().and_then(|password| {
        password.map(|password| secret_of(&settings, &superuser, &password)).transpose()
    });
    let secret = match password {
        Ok(secret) => secret,
        Err(message) => {
            report_end(&anyhow::Error::msg(message));
            return ExitCode::FAILURE;
        }
    };
    let data_dir = match DataDir::open_or_create(&path) {
        Ok(data_dir) => data_dir,
        Err(report) => {
            logging::report(&report);
            return ExitCode::FAILURE;
        }
    };
    let made = server::init(&data_dir, size, settings.wal_page_magic, rules, || {
        roles::create(data_dir.path(), &superuser, secret)
    });
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report_end(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_superuser_has_the_users_name_unless_that_is_root() {
        assert_eq!(superuser_default(Some("root".to_owned())), "postgres");
        assert_eq!(superuser_default(Some("walhub".to_owned())), "walhub");
        assert_eq!(superuser_default(None), "postgres");
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pw");
        fs::write(&file, "a b \r\nsecond\n").unwrap();
        assert_eq!(read_password(&file).unwrap(), "a b ");
        fs::write(&file, "").unwrap();
        assert!(read_password(&file).unwrap_err().ends_with("is empty"));
        let missing = read_password(&dir.path().join("no")).unwrap_err();
        assert!(missing.contains("No such file or directory"), "{missing}");
    }

    #[test]
    fn a_secret_is_made_as_the_settings_say() {
        let settings = Settings::default();
        let secret = secret_of(&settings, "root", "x").unwrap();
        assert!(secret.starts_with("SCRAM-SHA-256$4096:"), "{secret}");
        assert!(secret_of(&settings, "root", "").is_err());
    }
}
