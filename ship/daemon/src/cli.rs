//! The command line: `walhub init | serve | status | stop | reload | promote | verify | demo | tune | doctor |
//! roles | settings`.
//!
//! Unlike PostgreSQL, walhub runs as root when told to: it executes nothing that a client sends. A
//! service should name a user of its own all the same.

mod ctl;
mod doctor;
mod init;
mod roles;
mod tune;
mod verify;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use walhub_proto::hba::Method;
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use crate::datadir::{CONFIG_FILE, DataDir};
use crate::demo::{self, DemoArgs};
use crate::limits::Insufficient;
use crate::logging::{self, LogConfig};
use crate::server::{self, FirstRules, Reloader, ServeConfig};
use crate::settings::source::parse_assignment;
use crate::settings::{SettingError, Settings, Sources, show};
use crate::signals::ShutdownMode;
use walhub_hub::store::recover::RecoverError;

/// Where the data directory is when -D is not given.
const DATA_DIR_VARIABLE: &str = "WALHUB_DATA";

/// An io_uring WAL-shipping appliance for PostgreSQL.
#[derive(Parser, Debug)]
#[command(name = "walhub", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make a data directory for WAL of walhub's own.
    Init(init::InitArgs),
    /// Receive WAL from a primary, or write WAL of its own, and serve it to standbys.
    Serve(ServeArgs),
    /// Tell whether a server runs in a data directory.
    Status(DataDirArgs),
    /// Stop the server that runs in a data directory.
    Stop(StopArgs),
    /// Have the server that runs in a data directory read its configuration again.
    Reload(DataDirArgs),
    /// Make the standby that runs in a data directory the primary of its WAL.
    Promote(PromoteArgs),
    /// Read all WAL in a data directory, and tell which segments are damaged. A server may run in it.
    Verify(DataDirArgs),
    /// Ship WAL through a hub on this machine, and show how it went.
    Demo(DemoArgs),
    /// Check, apply and undo kernel settings that suit walhub.
    #[command(subcommand)]
    Tune(tune::TuneCommand),
    /// Tell whether this machine can run walhub well.
    Doctor(doctor::DoctorArgs),
    /// Copy roles from another server.
    #[command(subcommand)]
    Roles(roles::RolesCommand),
    /// List every setting as a Markdown table.
    Settings,
}

#[derive(Args, Clone, Debug)]
struct DataDirArgs {
    /// Data directory [env: WALHUB_DATA].
    #[arg(short = 'D', long = "data-dir", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// "walhub settings" lists every setting that -c and the configuration file may set.
#[derive(Args, Debug)]
struct ServeArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// Where to listen: listen_addresses and port in one.
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_listen)]
    listen: Option<(String, String)>,
    /// Connection string of the server to receive WAL from: primary_conninfo.
    #[arg(long, value_name = "CONNINFO")]
    upstream: Option<String>,
    /// Configuration file, instead of walhub.toml in the data directory.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a setting; wins over the configuration file.
    #[arg(short = 'c', value_name = "NAME=VALUE", value_parser = parse_assignment)]
    assignments: Vec<(String, String)>,
    /// Give up damaged WAL after this position, which a start that was refused has named: it is moved
    /// aside. Has no effect when nothing is damaged there.
    #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
    accept_loss_after: Option<Lsn>,
    /// Authentication method for Unix sockets in the pg_hba.conf that is written where there is none.
    #[arg(long, value_name = "METHOD", value_parser = init::parse_local_method)]
    auth_local: Option<Method>,
    /// The same, for TCP/IP from this machine.
    #[arg(long, value_name = "METHOD", value_parser = init::parse_host_method)]
    auth_host: Option<Method>,
}

#[derive(Args, Debug)]
struct StopArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// How to stop.
    #[arg(short, long, value_name = "MODE", default_value = "fast")]
    mode: ShutdownMode,
    /// Seconds to wait.
    #[arg(short, long, value_name = "SECS", default_value_t = 60)]
    timeout: u32,
    /// Do not wait until the server has stopped.
    #[arg(short = 'W', long)]
    no_wait: bool,
}

#[derive(Args, Debug)]
struct PromoteArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// Seconds to wait.
    #[arg(short, long, value_name = "SECS", default_value_t = 60)]
    timeout: u32,
    /// Do not wait until the server is a primary.
    #[arg(short = 'W', long)]
    no_wait: bool,
}

/// Runs the command that the process arguments name.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Init(args) => init::run(&args),
        Command::Serve(args) => serve(args),
        Command::Status(args) => ctl::status(&args.path(), &mut io::stdout()),
        Command::Stop(args) => {
            let wait = (!args.no_wait).then_some(args.timeout);
            ctl::stop(&args.data_dir.path(), args.mode, wait, &mut io::stdout())
        }
        Command::Reload(args) => ctl::reload(&args.path(), &mut io::stdout()),
        Command::Promote(args) => {
            let wait = (!args.no_wait).then_some(args.timeout);
            ctl::promote(&args.data_dir.path(), wait, &mut io::stdout())
        }
        Command::Verify(args) => verify::run(&args.path(), &mut io::stdout()),
        Command::Demo(args) => demo::run(&args).unwrap_or_else(|error| {
            let _ = writeln!(io::stderr(), "walhub: {error:#}");
            ExitCode::FAILURE
        }),
        Command::Tune(command) => tune::run(&command, &mut io::stdout()),
        Command::Doctor(args) => doctor::run(&args, &mut io::stdout()),
        Command::Roles(command) => roles::run(&command, &mut io::stdout()),
        Command::Settings => {
            // A reader such as head may close the pipe early.
            let _ = io::stdout().write_all(show::markdown().as_bytes());
            ExitCode::SUCCESS
        }
    }
}

impl DataDirArgs {
    /// The directory; a command without one is wrong usage.
    fn path(&self) -> PathBuf {
        self.path_if_given().unwrap_or_else(|| {
            let message = format!(
                "no data directory specified and environment variable {DATA_DIR_VARIABLE} unset"
            );
            Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit()
        })
    }

    /// The directory, from -D or the environment.
    fn path_if_given(&self) -> Option<PathBuf> {
        let from_environment = || std::env::var_os(DATA_DIR_VARIABLE).filter(|dir| !dir.is_empty());
        self.data_dir.clone().or_else(|| from_environment().map(PathBuf::from))
    }
}

/// Splits `ADDR:PORT`; an IPv6 address stands in brackets.
fn parse_listen(text: &str) -> Result<(String, String), String> {
    let wrong = "expected ADDR:PORT, with an IPv6 address in brackets".to_owned();
    let Some((address, port)) = text.rsplit_once(':') else { return Err(wrong) };
    let unbracketed = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match unbracketed {
        Some(address) => Ok((address.to_owned(), port.to_owned())),
        None if address.is_empty() || address.contains(':') => Err(wrong),
        None => Ok((address.to_owned(), port.to_owned())),
    }
}

fn parse_lsn(text: &str) -> Result<Lsn, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no WAL position such as 0/3000148"))
}

impl ServeArgs {
    /// Where this server's settings come from.
    fn sources(&self, data_dir: &Path) -> Sources {
        let mut command_line = Vec::new();
        if let Some((address, port)) = &self.listen {
            command_line.push(("listen_addresses".to_owned(), address.clone()));
            command_line.push(("port".to_owned(), port.clone()));
        }
        if let Some(conninfo) = &self.upstream {
            command_line.push(("primary_conninfo".to_owned(), conninfo.clone()));
        }
        command_line.extend(self.assignments.iter().cloned());
        let file = self.config.clone().unwrap_or_else(|| data_dir.join(CONFIG_FILE));
        // A reload must find the file wherever the server has gone meanwhile.
        let file = std::path::absolute(&file).unwrap_or(file);
        let (file_required, data_dir) = (self.config.is_some(), Some(data_dir.to_owned()));
        Sources { file: Some(file), file_required, command_line, data_dir }
    }
}

fn serve(args: ServeArgs) -> ExitCode {
    let path = args.data_dir.path();
    logging::init(LogConfig::from(&Settings::default()));
    let sources = args.sources(&path);
    let settings = match sources.load() {
        Ok(settings) => settings,
        Err(errors) => {
            log_setting_errors(&sources, &errors);
            return ExitCode::FAILURE;
        }
    };
    logging::reconfigure(LogConfig::from(&settings));
    let data_dir = match DataDir::open_or_create(&path) {
        Ok(data_dir) => data_dir,
        Err(report) => {
            logging::report(&report);
            return ExitCode::FAILURE;
        }
    };
    logging::log(format!(
        "starting walhub {} on {}-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS
    ));
    let reloader = Reloader::new(sources, settings.clone());
    let accept_loss_after = args.accept_loss_after;
    let trust = FirstRules::TRUST;
    let first_rules = FirstRules {
        local: args.auth_local.unwrap_or(trust.local),
        host: args.auth_host.unwrap_or(trust.host),
    };
    let config = ServeConfig { data_dir, settings, reloader, accept_loss_after, first_rules };
    server::run(config).unwrap_or_else(|error| {
        report_end(&error);
        ExitCode::FAILURE
    })
}

/// Says why the server does not start, or has ended.
fn report_end(error: &anyhow::Error) {
    if let Some(Insufficient(report)) = error.downcast_ref() {
        return logging::report(report);
    }
    logging::report(&match error.downcast_ref() {
        Some(RecoverError::Damaged(damage)) => damage.report(),
        _ => Report::fatal(SqlState::INTERNAL_ERROR, format!("{error:#}")),
    });
}

/// An error of the command line ends the server; those of the file are all listed first.
fn log_setting_errors(sources: &Sources, errors: &[SettingError]) {
    let is_fatal_itself = |error: &SettingError| error.place.is_none();
    for error in errors.iter().filter(|error| !is_fatal_itself(error)) {
        logging::report_as_log(&error.report());
    }
    let mut report = match (errors.iter().find(|error| is_fatal_itself(error)), &sources.file) {
        (Some(error), _) => error.report(),
        (None, Some(file)) => Report::error(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("configuration file \"{}\" contains errors", file.display()),
        ),
        (None, None) => return,
    };
    report.severity = walhub_proto::wire::backend::Severity::Fatal;
    logging::report(&report);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve_args(args: &[&str]) -> Result<ServeArgs, clap::Error> {
        let all = ["walhub", "serve", "-D", "d"].iter().chain(args);
        match Cli::try_parse_from(all)?.command {
            Command::Serve(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clap_accepts_the_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sugar_comes_before_assignments() {
        let args = serve_args(&[
            "-c",
            "port=7",
            "--listen",
            "[::1]:0",
            "--upstream",
            "host=a port=1",
            "-c",
            "wal-keep-size=1GB",
        ])
        .unwrap();
        let sources = args.sources(Path::new("/d"));
        assert_eq!(sources.file.as_deref(), Some(Path::new("/d/walhub.toml")));
        assert!(!sources.file_required);
        let settings = Sources { file: None, ..sources }.load().unwrap();
        assert_eq!(settings.listen_addresses, ["::1"]);
        assert_eq!(settings.port, 7);
        assert_eq!(settings.hub.primary_conninfo, "host=a port=1");
        assert_eq!(settings.hub.wal_keep_size, 1 << 30);
    }

    #[test]
    fn wrong_usage_is_told_by_the_parser() {
        for wrong in [
            &["--listen", "localhost"][..],
            &["--listen", "::1:5432"],
            &["--listen", ":5432"],
            &["-c", "port"],
            &["--unknown"],
            &["extra"],
        ] {
            assert_eq!(serve_args(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
        assert_eq!(parse_listen("*:1").unwrap(), ("*".to_owned(), "1".to_owned()));
    }
}
