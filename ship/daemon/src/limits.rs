//! What the machine allows, against what the settings promise: looked at once, at start.
//!
//! A limit that is met later is met by whoever comes last, which must not be the WAL: so descriptors are set aside for
//! it, for the standbys and for an operator, and clients get what is left. Threads are all started with the server
//! (`placement`, `server::cores`).
//!
//! PostgreSQL: `set_max_safe_fds` (src/backend/storage/file/fd.c), `PostmasterMain`.

use std::fmt;

use walhub_engine::process_limits;
use walhub_engine::uring::OPS_MAX;
use walhub_proto::segment::SegmentSize;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use crate::settings::Settings;

/// Descriptors that a server needs beside those of its sessions: rings, segments, slots, the upstream, the log.
pub(crate) const FILES_BESIDE: u64 = 96;
/// Standbys that catch up at a time, each with a segment open.
const CATCHING_UP_MAX: u64 = 1000;
/// Connections that may always be there without having said who they are: an operator's, a standby's.
const UNADMITTED_MIN: u64 = 16;
/// The most of them, however many descriptors there are: each costs a look when one more comes.
const UNADMITTED_MAX: u64 = 1024;
/// Operations that one standby may have under way on its core's ring: a receive, a send, a read, and one file that is
/// opened or closed.
const OPS_OF_STANDBY: u32 = 4;
/// Operations of a core itself.
const OPS_BESIDE: u32 = 1024;
/// Standbys that one core can serve, whatever else there is: all may come to be on one.
pub(crate) const WAL_SENDERS_MAX: u32 = (OPS_COUNT - OPS_BESIDE) / OPS_OF_STANDBY;
const OPS_COUNT: u32 = 1 << 17;
const _: () = assert!(OPS_COUNT as usize == OPS_MAX);

/// Why a server cannot start here with these settings.
#[derive(Debug)]
pub(crate) struct Insufficient(pub(crate) Report);

impl fmt::Display for Insufficient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let more = [&self.0.detail, &self.0.hint];
        more.into_iter().flatten().try_for_each(|text| write!(f, ": {text}"))
    }
}

impl std::error::Error for Insufficient {}

fn insufficient(message: &str, detail: String, hint: String) -> Insufficient {
    Insufficient(Report::fatal(SqlState::INSUFFICIENT_RESOURCES, message).detail(detail).hint(hint))
}

/// How many connections there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Connections {
    /// Connections that have not said yet who they are.
    pub(crate) unadmitted_max: u32,
    /// Connections of any kind.
    pub(crate) open_max: u32,
    /// SQL sessions that the descriptors are enough for, where that is fewer than `max_connections`.
    pub(crate) sessions_max: u32,
}

impl Connections {
    /// As the settings say, with `nofile` descriptors; `None` is no limit.
    ///
    /// # Errors
    /// When not even the standbys and an operator have theirs.
    pub(crate) fn of(settings: &Settings, nofile: Option<u64>) -> Result<Self, Insufficient> {
        let (senders, sessions) =
            (u64::from(settings.hub.max_wal_senders), u64::from(settings.max_connections));
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let wanted = (senders + sessions).clamp(UNADMITTED_MIN, UNADMITTED_MAX);
        let nofile = nofile.unwrap_or(u64::MAX);
        let least = FILES_BESIDE + UNADMITTED_MIN + senders + operators(settings).max(1);
        if nofile < least {
            let beside = least - senders;
            return Err(insufficient(
                "insufficient file descriptors available to start server process",
                format!(
                    "System allows {nofile}, server needs at least {least}, of which \
                     max_wal_senders = {senders} needs {senders}."
                ),
                match nofile.checked_sub(beside) {
                    Some(possible) if possible > 0 => format!(
                        "Raise LimitNOFILE= in the unit, or ulimit -n, or set max_wal_senders to \
                         {possible} at most."
                    ),
                    _ => "Raise LimitNOFILE= in the unit, or ulimit -n.".to_owned(),
                },
            ));
        }
        // A standby that catches up has a segment open; live ones have not. Sockets come first.
        let of_standbys = files_of_standbys(settings).min(nofile - (least - senders));
        let left = nofile - FILES_BESIDE - of_standbys;
        let unadmitted = wanted.min(left.saturating_sub(sessions)).max(UNADMITTED_MIN.min(left));
        let sessions = sessions.min(left - unadmitted).max(1);
        Ok(Self {
            unadmitted_max: small(unadmitted),
            open_max: small(unadmitted + sessions + senders),
            sessions_max: small(sessions),
        })
    }
}

/// Descriptors of as many standbys as there may be: their sockets, and the segments of those that catch up.
pub(crate) fn files_of_standbys(settings: &Settings) -> u64 {
    let senders = u64::from(settings.hub.max_wal_senders);
    senders + senders.min(CATCHING_UP_MAX)
}

/// SQL sessions that only an operator may have.
fn operators(settings: &Settings) -> u64 {
    u64::from(settings.connections_kept())
}

/// Raises what may be raised, and looks whether the rest is enough.
///
/// # Errors
/// When it is not.
pub(crate) fn check_at_start(settings: &Settings) -> anyhow::Result<Connections> {
    process_limits::ignore_file_size_signal()?;
    check_settings(settings)?;
    let nofile = process_limits::raise_descriptors();
    let connections = Connections::of(settings, nofile)?;
    if connections.sessions_max < settings.max_connections {
        tracing::warn!(
            hint = "Raise LimitNOFILE= in the unit, or ulimit -n.",
            "file descriptors are enough for {} of max_connections = {} SQL sessions",
            connections.sessions_max,
            settings.max_connections
        );
    }
    crate::placement::start_workers().map_err(|error| thread_refused(&error))?;
    Ok(connections)
}

fn check_settings(settings: &Settings) -> Result<(), Insufficient> {
    let (senders, reserved) = (settings.hub.max_wal_senders, settings.connections_kept());
    if senders > WAL_SENDERS_MAX {
        return Err(insufficient(
            "max_wal_senders is larger than what a core can serve",
            format!(
                "It is {senders}; each standby may have {OPS_OF_STANDBY} of the {OPS_MAX} operations of a ring."
            ),
            format!("Set max_wal_senders to {WAL_SENDERS_MAX} at most."),
        ));
    }
    // PostgreSQL: PostmasterMain.
    if reserved > 0 && reserved >= settings.max_connections {
        let of_superusers = settings.superuser_reserved_connections;
        let others = match settings.reserved_connections {
            0 => String::new(),
            others => format!(" plus reserved_connections ({others})"),
        };
        let message = format!(
            "superuser_reserved_connections ({of_superusers}){others} must be less than \
             max_connections ({})",
            settings.max_connections
        );
        let report = Report::fatal(SqlState::INVALID_PARAMETER_VALUE, message);
        return Err(Insufficient(report));
    }
    Ok(())
}

/// Looks whether a segment may be as large as it must be.
///
/// # Errors
/// When it may not.
pub(crate) fn check_segment_size(size: SegmentSize) -> anyhow::Result<()> {
    Ok(check_file_size(size, process_limits::file_size_max())?)
}

fn check_file_size(size: SegmentSize, allowed: Option<u64>) -> Result<(), Insufficient> {
    match allowed {
        Some(allowed) if allowed < size.bytes() => Err(insufficient(
            "files may not be as large as a WAL segment",
            format!("System allows {allowed} bytes, a segment has {}.", size.bytes()),
            "Raise LimitFSIZE= in the unit, or ulimit -f.".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// The error when the system has no thread left.
pub(crate) fn thread_refused(error: &std::io::Error) -> Insufficient {
    insufficient(
        "could not start a thread",
        format!("The system says: {}.", walhub_engine::files::reason(error)),
        "Raise LimitNPROC= or TasksMax= in the unit, ulimit -u, or the pids limit of the container.".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(connections: u32, senders: u32) -> Settings {
        let mut settings = Settings::default();
        (settings.max_connections, settings.hub.max_wal_senders) = (connections, senders);
        settings
    }

    #[test]
    fn clients_get_what_is_left_of_the_descriptors() {
        let of = |settings: &Settings, nofile| Connections::of(settings, nofile).unwrap();
        let plenty = of(&settings(100, 10), None);
        assert_eq!((plenty.unadmitted_max, plenty.open_max, plenty.sessions_max), (110, 220, 100));
        for nofile in 125..2000 {
            let got = of(&settings(1000, 10), Some(nofile));
            // Whatever they all do, this is left for the WAL, and for the segments of the standbys.
            let open = u64::from(got.open_max);
            assert!(open + FILES_BESIDE <= nofile, "{got:?} of {nofile}");
            assert!(
                u64::from(got.unadmitted_max) >= UNADMITTED_MIN.min(nofile - FILES_BESIDE - 20)
            );
            assert!(got.sessions_max >= 1);
        }
        let many = of(&settings(10, 10_000), Some(20_000));
        assert!(u64::from(many.open_max) + FILES_BESIDE <= 20_000 && many.sessions_max == 10);
    }

    #[test]
    fn too_few_descriptors_are_an_error_that_says_what_is_possible() {
        let Insufficient(report) = Connections::of(&settings(100, 1000), Some(1024)).unwrap_err();
        assert_eq!(
            report.message,
            "insufficient file descriptors available to start server process"
        );
        let possible: u32 = {
            let hint = report.hint.unwrap();
            let number = hint.split_once("max_wal_senders to ").unwrap().1;
            number.split(' ').next().unwrap().parse().unwrap()
        };
        assert!(Connections::of(&settings(100, possible), Some(1024)).is_ok());
        assert!(Connections::of(&settings(100, possible + 1), Some(1024)).is_err());
    }

    #[test]
    fn settings_that_cannot_be_kept_are_refused() {
        assert!(check_settings(&settings(100, WAL_SENDERS_MAX)).is_ok());
        let Insufficient(report) = check_settings(&settings(100, WAL_SENDERS_MAX + 1)).unwrap_err();
        let hint = report.hint.unwrap();
        assert!(hint.contains(&WAL_SENDERS_MAX.to_string()), "{hint}");
        assert!(check_settings(&settings(4, 10)).is_ok());
        let mut few = settings(3, 10);
        let Insufficient(report) = check_settings(&few).unwrap_err();
        assert_eq!(
            report.message,
            "superuser_reserved_connections (3) must be less than max_connections (3)"
        );
        (few.superuser_reserved_connections, few.reserved_connections) = (1, 2);
        let Insufficient(report) = check_settings(&few).unwrap_err();
        assert_eq!(
            report.message,
            "superuser_reserved_connections (1) plus reserved_connections (2) must be less than \
             max_connections (3)"
        );
        assert!(check_file_size(SegmentSize::MIN, Some(SegmentSize::MIN.bytes())).is_ok());
        assert!(check_file_size(SegmentSize::MIN, Some(SegmentSize::MIN.bytes() - 1)).is_err());
        assert!(check_file_size(SegmentSize::DEFAULT, None).is_ok());
    }
}
