//! `walhub doctor`: can this machine run walhub well?
//!
//! Every finding says what was found, what it costs and the command that mends it. Exit codes: 0
//! when nothing worse than advice was found, 1 for warnings, 3 when walhub cannot run.

mod knobs;

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use walhub_engine::probe::probe_directory;
use walhub_engine::uring::{
    KERNEL_MIN, UringUnavailable, io_uring_check, operations_missing, operations_used,
    page_cache_is_visible, zero_copy_send_is_there,
};
use walhub_proto::segment::SegmentSize;
use walhub_tuning::{Machine, System, Tree, limits};

use super::DataDirArgs;
use super::tune::{place_of_data, recognise};
use crate::datadir::CONFIG_FILE;
use crate::limits::{FILES_BESIDE, WAL_SENDERS_MAX, files_of_standbys};
use crate::settings::{Settings, Sources};

/// Exit code when walhub cannot run; 2 is wrong usage.
const CANNOT_RUN: u8 = 3;
/// A durable write that takes longer than this is worth a warning.
const SLOW_DURABLE_WRITE_US: u64 = 5_000;
/// Less free space than this, and a standby that lags for an hour may fill the disk.
const FREE_BYTES_MIN: u64 = 4 << 30;
/// Threads that a server may start, with some of the kernel's for its rings.
const THREADS_MIN: u64 = 512;
/// File systems that are memory, and those that are far away.
const VOLATILE: [&str; 2] = ["tmpfs", "ramfs"];
const REMOTE: [&str; 5] = ["nfs", "nfs4", "cifs", "smb3", "9p"];

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Advice,
    Warning,
    Failure,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Advice => "advice",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// One thing looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    level: Level,
    check: String,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    costs: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &str, found: impl Into<String>) -> Self {
        let (check, found) = (check.to_owned(), found.into());
        Self { level: Level::Ok, check, found, costs: None, mend: None }
    }

    fn bad(level: Level, check: &str, found: impl Into<String>, costs: &str, mend: &str) -> Self {
        let (costs, mend) = (Some(costs.to_owned()), Some(mend.to_owned()));
        Self { level, check: check.to_owned(), found: found.into(), costs, mend }
    }
}

/// Looks at everything and says what it found.
pub(super) fn run(args: &DoctorArgs, out: &mut impl Write) -> ExitCode {
    let root = Path::new("/");
    let tree = Tree::new(root);
    let given = args.data_dir.path_if_given();
    let machine = recognise(&tree, given.clone(), root);
    let data_dir = place_of_data(given);
    let mut findings = vec![kernel(&tree), io_uring(io_uring_check())];
    findings.extend(operations());
    findings.push(zero_copy(page_cache_is_visible()));
    findings.extend(zero_copy_send().ok());
    let (settings, trouble) = settings(&data_dir);
    findings.extend(trouble);
    findings.extend(file_system(&machine));
    findings.push(disk(&data_dir));
    findings.extend(free_space(&data_dir));
    findings.push(open_files(&tree, &settings));
    findings.push(file_size(&tree));
    findings.push(threads(&tree));
    findings.extend(standbys(&settings));
    findings.push(locked_memory(&tree));
    findings.extend(memory(&tree, &settings));
    findings.extend(knobs::clock(&tree));
    findings.push(knobs::cpu_frequency(&tree));
    findings.extend(knobs::idle_states(&tree, &machine));
    findings.extend(knobs::compared(&tree, &machine));
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    let text = if args.json {
        let report =
            serde_json::json!({ "machine": machine, "worst": worst, "findings": findings });
        format!("{report:#}\n")
    } else {
        text(&machine, &findings)
    };
    // A reader such as head may close the pipe early.
    let _ = out.write_all(text.as_bytes());
    match worst {
        Level::Ok | Level::Advice => ExitCode::SUCCESS,
        Level::Warning => ExitCode::FAILURE,
        Level::Failure => ExitCode::from(CANNOT_RUN),
    }
}

fn text(machine: &Machine, findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = format!("Machine: {} ({})\n\n", machine.profile, machine.because);
    for finding in findings {
        let Finding { level, check, found, costs, mend } = finding;
        let _ = writeln!(text, "{:<8} {check:<width$}  {found}", level.as_str());
        let lines = [("costs", costs), ("mend", mend)];
        for (label, line) in lines.iter().filter_map(|(label, line)| Some((label, line.as_ref()?)))
        {
            let _ = writeln!(text, "{:9}{:width$}  {label}: {line}", "", "");
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (failures, warnings) = (count(Level::Failure), count(Level::Warning));
    let verdict = match (failures, warnings) {
        (0, 0) => "walhub runs well here".to_owned(),
        (0, warnings) => format!("walhub runs here, with warnings: {warnings}"),
        (failures, _) => format!("walhub does not run here, failures: {failures}"),
    };
    let _ = writeln!(text, "\n{verdict}; advice: {}", count(Level::Advice));
    text
}

fn read(system: &dyn System, path: &str) -> String {
    system.read(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Major and minor number of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(system: &dyn System) -> Finding {
    let release = read(system, "/proc/sys/kernel/osrelease");
    match (version(&release), version(KERNEL_MIN)) {
        (Some(now), Some(least)) if now < least => Finding::bad(
            Level::Failure,
            "kernel",
            format!("Linux {release}"),
            &format!("walhub needs Linux {KERNEL_MIN} or newer and does not start"),
            "install a newer kernel package and reboot",
        ),
        (Some(now), _) if now < (6, 1) => Finding::bad(
            Level::Advice,
            "kernel",
            format!("Linux {release}"),
            "without DEFER_TASKRUN (6.1) completions interrupt a core loop instead of waiting for it",
            "install Linux 6.1 or newer and reboot",
        ),
        (Some(_) | None, _) => Finding::ok("kernel", format!("Linux {release}")),
    }
}

fn io_uring(checked: Result<(), UringUnavailable>) -> Finding {
    let costs = "walhub does not start";
    let Err(reason) = checked else { return Finding::ok("io_uring", "allowed") };
    let mend = match &reason {
        UringUnavailable::DisabledBySysctl(_) => "sysctl -w kernel.io_uring_disabled=0",
        UringUnavailable::DeniedBySeccomp => {
            "docker run --security-opt seccomp=FILE, with io_uring_setup, io_uring_enter and \
             io_uring_register allowed in FILE"
        }
        UringUnavailable::OutOfMemory => {
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit"
        }
        UringUnavailable::OutOfFiles(_) => "ulimit -n 65536, or LimitNOFILE=65536 in the unit",
        UringUnavailable::NotInKernel | UringUnavailable::KernelTooOld(_) => {
            "install a newer kernel package and reboot"
        }
        UringUnavailable::Denied(_) | UringUnavailable::Other(_) => {
            "look for the refusal in the audit log: journalctl -k -g audit"
        }
    };
    Finding::bad(Level::Failure, "io_uring", reason.to_string(), costs, mend)
}

fn operations() -> Option<Finding> {
    // Without a ring the finding before says why.
    let missing = operations_missing().ok()?;
    if missing.is_empty() {
        let used = operations_used().join(", ");
        return Some(Finding::ok("io_uring operations", format!("all there: {used}")));
    }
    Some(Finding::bad(
        Level::Failure,
        "io_uring operations",
        format!("missing: {}", missing.join(", ")),
        "walhub fails at the first of them",
        "install a newer kernel package and reboot",
    ))
}

/// An error when there is no ring to ask; the finding before says why.
fn zero_copy_send() -> Result<Finding, UringUnavailable> {
    Ok(zero_copy_of_memory(zero_copy_send_is_there()?))
}

fn zero_copy_of_memory(is_there: bool) -> Finding {
    let check = "sending from memory";
    if is_there {
        return Finding::ok(check, "without a copy (SENDMSG_ZC), see zerocopy_send");
    }
    Finding::bad(
        Level::Advice,
        check,
        "the operation SENDMSG_ZC is missing",
        "new WAL is copied into the socket of each standby, on other machines too",
        "install Linux 6.2 or newer and reboot",
    )
}

fn zero_copy(page_cache_is_visible: bool) -> Finding {
    let check = "sending from page cache";
    if page_cache_is_visible {
        return Finding::ok(check, "without a copy");
    }
    Finding::bad(
        Level::Advice,
        check,
        "cachestat is not there, or forbidden",
        "WAL for standbys that catch up is read into memory and copied into each socket",
        "install Linux 6.5 or newer and reboot, and allow cachestat in the seccomp profile",
    )
}

/// The settings of the data directory; the defaults when there are none.
fn settings(data_dir: &Path) -> (Settings, Option<Finding>) {
    let file = data_dir.join(CONFIG_FILE);
    let sources = Sources { file: Some(file), ..Sources::default() };
    match sources.load() {
        Ok(settings) => (settings, None),
        Err(errors) => {
            let found = errors.first().map(|error| error.report().message).unwrap_or_default();
            let costs = "walhub does not start; the checks below use the defaults";
            let mend = format!("edit \"{}\"", data_dir.join(CONFIG_FILE).display());
            let finding = Finding::bad(Level::Failure, "configuration file", found, costs, &mend);
            (Settings::default(), Some(finding))
        }
    }
}

fn file_system(machine: &Machine) -> Option<Finding> {
    let mount = machine.mount.as_ref()?;
    let found = format!("{} on {}", mount.file_system, mount.point);
    let is = |kinds: &[&str]| kinds.contains(&mount.file_system.as_str());
    let warn = |costs| {
        let mend = "choose a directory on ext4 or XFS on a local disk: -D DIR";
        Some(Finding::bad(Level::Warning, "file system", found.clone(), costs, mend))
    };
    if is(&VOLATILE) {
        return warn("it is memory: a power cut takes WAL that was reported as flushed");
    }
    if is(&REMOTE) {
        return warn("every commit waits for another server, and for its idea of a flush");
    }
    if is(&["overlay"]) {
        return warn("a container's own layer is slow to write and gone with the container");
    }
    Some(Finding::ok("file system", found))
}

/// Measures the data directory, or the nearest directory above it that there is.
fn disk(data_dir: &Path) -> Finding {
    let check = "durable write";
    let Some(directory) = data_dir.ancestors().find(|directory| directory.is_dir()) else {
        return Finding::ok(check, "not measured");
    };
    let shown = directory.display();
    match probe_directory(directory) {
        Ok(probe) => {
            let found = format!(
                "{} us with open_datasync, {} us with fdatasync, in \"{shown}\"",
                probe.dsync_us, probe.fdatasync_us
            );
            disk_finding(probe.direct, probe.dsync_us.min(probe.fdatasync_us), found)
        }
        Err(error) => Finding::bad(
            Level::Warning,
            check,
            format!("could not measure in \"{shown}\": {error}"),
            "nothing is known about the latency of commits",
            "run walhub doctor as the user of the service, or name its directory: -D DIR",
        ),
    }
}

fn disk_finding(direct: bool, best_us: u64, found: String) -> Finding {
    let check = "durable write";
    if !direct {
        return Finding::bad(
            Level::Warning,
            check,
            format!("{found}; no O_DIRECT there"),
            "each flush goes through the page cache and a worker thread",
            "choose a directory on a file system with direct I/O, such as ext4 or XFS: -D DIR",
        );
    }
    if best_us > SLOW_DURABLE_WRITE_US {
        return Finding::bad(
            Level::Warning,
            check,
            format!("{found}, with O_DIRECT"),
            "every synchronous commit waits this long, and a relay's acknowledgement too",
            "choose a directory on a drive with power-loss protection: -D DIR",
        );
    }
    Finding::ok(check, format!("{found}, with O_DIRECT"))
}

fn free_space(data_dir: &Path) -> Option<Finding> {
    let directory = data_dir.ancestors().find(|directory| directory.is_dir())?;
    let file_system = rustix::fs::statvfs(directory).ok()?;
    Some(free_finding(file_system.f_bavail.saturating_mul(file_system.f_frsize)))
}

fn free_finding(free: u64) -> Finding {
    let found = format!("{} MB free", free >> 20);
    if free >= FREE_BYTES_MIN {
        return Finding::ok("disk space", found);
    }
    Finding::bad(
        Level::Warning,
        "disk space",
        found,
        "slots and wal_keep_size retain WAL: a full disk stops the server, and commits upstream",
        "free or add space, or bound what slots retain: max_slot_wal_keep_size in walhub.toml",
    )
}

/// A limit as text, and as a number; no limit is the largest number.
fn limit(system: &dyn System, name: &str) -> Option<(String, u64)> {
    let text = limits::of_service(system, name, true)?;
    let number = text.parse().unwrap_or(u64::MAX);
    Some((text, number))
}

fn open_files(system: &dyn System, settings: &Settings) -> Finding {
    let Some((text, least)) = limit(system, "nofile") else {
        return Finding::ok("open files", "unknown");
    };
    let sessions = u64::from(settings.max_connections);
    let needed = files_of_standbys(settings) + sessions + FILES_BESIDE;
    if least >= needed {
        return Finding::ok("open files", format!("{text} allowed, {needed} needed at most"));
    }
    Finding::bad(
        Level::Warning,
        "open files",
        format!("{text} allowed, {needed} needed for max_wal_senders and max_connections"),
        "connections beyond are refused, and a standby may find no descriptor for its segment",
        "LimitNOFILE= in the unit (walhub tune apply), ulimit -n, or docker run --ulimit nofile=",
    )
}

/// A segment may have any size up to 1 GB: that of the upstream, or of the data directory.
fn file_size(system: &dyn System) -> Finding {
    let Some((text, least)) = limit(system, "fsize") else {
        return Finding::ok("file size", "unknown");
    };
    if least >= SegmentSize::MAX.bytes() {
        return Finding::ok("file size", format!("{text} allowed"));
    }
    Finding::bad(
        Level::Warning,
        "file size",
        format!("{text} bytes allowed, a WAL segment may have {}", SegmentSize::MAX.bytes()),
        "walhub does not start, or stops to receive, where a segment is larger",
        "LimitFSIZE= in the unit, or ulimit -f unlimited",
    )
}

fn threads(system: &dyn System) -> Finding {
    let Some((text, least)) = limit(system, "nproc") else {
        return Finding::ok("threads", "unknown");
    };
    if least >= THREADS_MIN {
        return Finding::ok("threads", format!("{text} allowed"));
    }
    Finding::bad(
        Level::Warning,
        "threads",
        format!("{text} allowed to all processes of the user, {THREADS_MIN} needed at most"),
        "walhub does not start, or its rings lack the kernel's workers",
        "LimitNPROC= and TasksMax= in the unit, or ulimit -u",
    )
}

fn standbys(settings: &Settings) -> Option<Finding> {
    let wanted = settings.hub.max_wal_senders;
    (wanted > WAL_SENDERS_MAX).then(|| {
        Finding::bad(
            Level::Failure,
            "standbys",
            format!("max_wal_senders is {wanted}, a core serves {WAL_SENDERS_MAX} at most"),
            "walhub does not start",
            "lower max_wal_senders in walhub.toml",
        )
    })
}

/// A limit too small for a ring is a failure of `io_uring`; nothing else is locked.
fn locked_memory(system: &dyn System) -> Finding {
    let found = match limit(system, "memlock") {
        Some((text, u64::MAX)) => text,
        Some((text, _)) => format!("{text} bytes; walhub locks nothing but its rings"),
        None => "unknown".to_owned(),
    };
    Finding::ok("locked memory", found)
}

fn memory(system: &dyn System, settings: &Settings) -> Option<Finding> {
    let meminfo = read(system, "/proc/meminfo");
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    let (tail, sql) = (settings.hub.tail_cache_size, settings.sql_memory_limit);
    let (available, wanted) = (kilobytes << 10, tail + sql);
    let found = format!(
        "{} MB available, tail_cache_size is {} MB, sql_memory_limit {} MB",
        available >> 20,
        tail >> 20,
        sql >> 20
    );
    if wanted <= available / 2 {
        return Some(Finding::ok("memory", found));
    }
    Some(Finding::bad(
        Level::Warning,
        "memory",
        found,
        "the tail cache may be swapped out, or the process killed",
        "lower tail_cache_size or sql_memory_limit in walhub.toml",
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    pub(super) fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let root = tempfile::tempdir().unwrap();
        let tree = Tree::new(root.path());
        for (path, content) in files {
            let place = tree.place(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, content).unwrap();
        }
        (root, tree)
    }

    #[test]
    fn old_kernels_are_told_apart() {
        for (release, level) in [
            ("5.15.0-91-generic", Level::Failure),
            ("5.19.1", Level::Advice),
            ("6.0.9", Level::Advice),
            ("6.1.0-18-amd64", Level::Ok),
            ("7.0-rc1", Level::Ok),
            ("strange", Level::Ok),
        ] {
            let (_root, tree) = tree(&[("/proc/sys/kernel/osrelease", release)]);
            assert_eq!(kernel(&tree).level, level, "{release}");
        }
    }

    #[test]
    fn a_refused_ring_is_a_failure_with_its_command() {
        let finding = io_uring(Err(UringUnavailable::DisabledBySysctl(2)));
        assert_eq!(finding.level, Level::Failure);
        assert_eq!(finding.mend.unwrap(), "sysctl -w kernel.io_uring_disabled=0");
        assert_eq!(io_uring(Ok(())).level, Level::Ok);
        assert_eq!(operations().unwrap().level, Level::Ok);
        assert_eq!(zero_copy(true).level, Level::Ok);
        assert_eq!(zero_copy_of_memory(true).level, Level::Ok);
        assert_eq!(zero_copy_of_memory(false).level, Level::Advice);
        assert_eq!(zero_copy(false).level, Level::Advice);
    }

    #[test]
    fn files_are_counted_by_the_settings() {
        let line = |soft| format!("Max open files            {soft}     524288   files\n");
        let mut settings = Settings::default();
        settings.hub.max_wal_senders = 500;
        settings.max_connections = 100;
        for (soft, level) in
            [("1195", Level::Warning), ("1196", Level::Ok), ("unlimited", Level::Ok)]
        {
            let (_root, tree) = tree(&[("/proc/self/limits", &line(soft))]);
            assert_eq!(open_files(&tree, &settings).level, level, "{soft}");
        }
    }

    #[test]
    fn disks_are_judged() {
        let level = |direct, best_us| disk_finding(direct, best_us, String::new()).level;
        assert_eq!(level(true, 5_000), Level::Ok);
        assert_eq!(level(true, 5_001), Level::Warning);
        assert_eq!(level(false, 10), Level::Warning);
        assert_eq!(free_finding((4 << 30) - 1).level, Level::Warning);
        assert_eq!(free_finding(4 << 30).level, Level::Ok);
    }

    #[test]
    fn memory_and_file_system_are_judged() {
        let mut settings = Settings::default();
        (settings.hub.tail_cache_size, settings.sql_memory_limit) = (1 << 30, 0);
        for (available, level) in [("2097152", Level::Ok), ("2097151", Level::Warning)] {
            let (_root, tree) =
                tree(&[("/proc/meminfo", &format!("MemAvailable: {available} kB\n"))]);
            assert_eq!(memory(&tree, &settings).unwrap().level, level);
        }
        for (kind, level) in
            [("ext4", Level::Ok), ("tmpfs", Level::Warning), ("nfs4", Level::Warning)]
        {
            let mounts = format!("22 1 8:1 / / rw - {kind} /dev/sda1 rw\n");
            let (_root, tree) = tree(&[("/proc/self/mountinfo", &mounts)]);
            let machine = Machine::recognise(&tree, "/data");
            assert_eq!(file_system(&machine).unwrap().level, level, "{kind}");
        }
    }

    #[test]
    fn a_wrong_configuration_file_is_a_failure() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(settings(root.path()).1, None);
        fs::write(root.path().join(CONFIG_FILE), "port = 'x'\n").unwrap();
        assert_eq!(settings(root.path()).1.unwrap().level, Level::Failure);
    }
}
