//! Makes a ring, or says which knob of the system forbids it.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;

use io_uring::{Builder, IoUring, Probe, opcode};

/// The oldest kernel that has every operation and flag needed.
pub const KERNEL_MIN: &str = "5.19";

/// Completion queue entries for each submission queue entry: operations under way wait mostly for
/// a peer, so far more of them than one batch may complete together.
const CQES_PER_SQE: u32 = 8;

/// Why there can be no ring.
#[derive(Debug)]
pub enum UringUnavailable {
    /// ENOSYS without a seccomp filter: a kernel before 5.1 or built without io_uring.
    NotInKernel,
    /// The sysctl `kernel.io_uring_disabled` forbids it, with this value.
    DisabledBySysctl(u32),
    /// A seccomp filter forbids it, as container runtimes do by default.
    DeniedBySeccomp,
    /// EPERM or EACCES without sysctl or seccomp filter: a security module.
    Denied(io::Error),
    /// ENOMEM: RLIMIT_MEMLOCK, or memory is out.
    OutOfMemory,
    /// EMFILE or ENFILE: RLIMIT_NOFILE.
    OutOfFiles(io::Error),
    /// The kernel has io_uring but is older than [`KERNEL_MIN`].
    KernelTooOld(String),
    /// Any other error, as the kernel gave it.
    Other(io::Error),
}

impl fmt::Display for UringUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInKernel => write!(
                f,
                "this kernel has no io_uring: Linux {KERNEL_MIN} or newer with CONFIG_IO_URING is \
                 needed"
            ),
            Self::DisabledBySysctl(value @ 1) => write!(
                f,
                "io_uring is reserved to the group in the sysctl kernel.io_uring_group \
                 (kernel.io_uring_disabled = {value}): set kernel.io_uring_disabled = 0 or add the \
                 user to that group"
            ),
            Self::DisabledBySysctl(value) => write!(
                f,
                "io_uring is disabled by the sysctl kernel.io_uring_disabled = {value}: set it to 0"
            ),
            Self::DeniedBySeccomp => write!(
                f,
                "io_uring is denied by a seccomp filter: allow io_uring_setup, io_uring_enter and \
                 io_uring_register in the container's seccomp profile"
            ),
            Self::Denied(error) => {
                write!(f, "io_uring is denied by a security module of the system: {error}")
            }
            Self::OutOfMemory => write!(
                f,
                "not enough lockable memory for io_uring: raise RLIMIT_MEMLOCK (ulimit -l, \
                 LimitMEMLOCK=)"
            ),
            Self::OutOfFiles(error) => write!(
                f,
                "no file descriptor for io_uring: raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=): \
                 {error}"
            ),
            Self::KernelTooOld(release) => {
                write!(f, "Linux {release} is too old: {KERNEL_MIN} or newer is needed")
            }
            Self::Other(error) => write!(f, "could not set io_uring up: {error}"),
        }
    }
}

impl Error for UringUnavailable {}

impl From<UringUnavailable> for io::Error {
    fn from(error: UringUnavailable) -> Self {
        let kind = match &error {
            UringUnavailable::NotInKernel | UringUnavailable::KernelTooOld(_) => {
                io::ErrorKind::Unsupported
            }
            UringUnavailable::DisabledBySysctl(_)
            | UringUnavailable::DeniedBySeccomp
            | UringUnavailable::Denied(_) => io::ErrorKind::PermissionDenied,
            UringUnavailable::OutOfMemory => io::ErrorKind::OutOfMemory,
            UringUnavailable::OutOfFiles(error) | UringUnavailable::Other(error) => error.kind(),
        };
        Self::new(kind, error)
    }
}

/// Whether rings can be made here.
///
/// # Errors
/// With the knob to turn when not.
pub fn io_uring_check() -> Result<(), UringUnavailable> {
    build(8, TaskrunFlag::Off).map(drop)
}

/// The operations that [`super::Uring`] cannot do without, by name and code.
const OPERATIONS: [(&str, u8); 14] = [
    ("OPENAT", opcode::OpenAt::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("RENAMEAT", opcode::RenameAt::CODE),
    ("UNLINKAT", opcode::UnlinkAt::CODE),
    ("READ", opcode::Read::CODE),
    ("WRITEV", opcode::Writev::CODE),
    ("FALLOCATE", opcode::Fallocate::CODE),
    ("FSYNC", opcode::Fsync::CODE),
    ("RECV", opcode::Recv::CODE),
    ("RECVMSG", opcode::RecvMsg::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel2::CODE),
];

/// Code of the operation without which [`super::Uring`] copies what it sends.
const SEND_ZERO_COPY: u8 = opcode::SendMsgZc::CODE;

/// Whether this kernel can send from user memory without a copy: SENDMSG_ZC, Linux 6.1. It tells
/// whether it copied after all from 6.2 on.
///
/// # Errors
/// When there can be no ring to ask.
pub fn zero_copy_send_is_there() -> Result<bool, UringUnavailable> {
    has_zero_copy_send(&build(8, TaskrunFlag::Off)?).map_err(UringUnavailable::Other)
}

pub(super) fn has_zero_copy_send(ring: &IoUring) -> io::Result<bool> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(probe.is_supported(SEND_ZERO_COPY))
}

/// Names of the operations that [`super::Uring`] cannot do without.
#[must_use]
pub fn operations_used() -> Vec<&'static str> {
    OPERATIONS.iter().map(|(name, _)| *name).collect()
}

/// Those of [`operations_used`] that this kernel does not have.
///
/// # Errors
/// When there can be no ring to ask.
pub fn operations_missing() -> Result<Vec<&'static str>, UringUnavailable> {
    let ring = build(8, TaskrunFlag::Off)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(UringUnavailable::Other)?;
    let missing = OPERATIONS.into_iter().filter(|(_, code)| !probe.is_supported(*code));
    Ok(missing.map(|(name, _)| name).collect())
}

/// Whether the ring's memory shows that completions are still to be made: IORING_SETUP_TASKRUN_FLAG.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskrunFlag {
    Off,
    On,
}

/// The ring with the best set of flags that the kernel takes, for use by this thread alone.
pub(super) fn build(entries: u32, taskrun: TaskrunFlag) -> Result<IoUring, UringUnavailable> {
    let mut last = None;
    // Best first: 6.1 has DEFER_TASKRUN, 6.0 SINGLE_ISSUER, 5.19 COOP_TASKRUN.
    let attempts: [fn(&mut Builder) -> &mut Builder; 3] = [
        |builder| builder.setup_single_issuer().setup_defer_taskrun(),
        |builder| builder.setup_single_issuer().setup_coop_taskrun(),
        |builder| builder.setup_coop_taskrun(),
    ];
    for choose in attempts {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_submit_all();
        builder.setup_cqsize(entries.saturating_mul(CQES_PER_SQE));
        choose(&mut builder);
        if taskrun == TaskrunFlag::On {
            builder.setup_taskrun_flag();
        }
        match builder.build(entries) {
            Ok(ring) if ring.params().is_feature_ext_arg() && ring.params().is_feature_nodrop() => {
                return Ok(ring);
            }
            Ok(_) => return Err(UringUnavailable::KernelTooOld(kernel_release())),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(explain(error, &Facts::read())),
        }
    }
    Err(explain(last.expect("there was an attempt"), &Facts::read()))
}

/// What the system says about its limits.
#[derive(Debug)]
struct Facts {
    /// `kernel.io_uring_disabled`; 0 where there is no such sysctl.
    disabled: u32,
    /// Whether this process has a seccomp filter.
    seccomp: bool,
    release: String,
}

impl Facts {
    fn read() -> Self {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        Self {
            disabled: disabled.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0),
            seccomp: mode.is_some_and(|mode| mode.trim() != "0"),
            release: kernel_release(),
        }
    }
}

fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

fn explain(error: io::Error, facts: &Facts) -> UringUnavailable {
    match error.raw_os_error() {
        Some(libc::ENOSYS) if facts.seccomp => UringUnavailable::DeniedBySeccomp,
        Some(libc::ENOSYS) => UringUnavailable::NotInKernel,
        Some(libc::EPERM | libc::EACCES) if facts.disabled > 0 => {
            UringUnavailable::DisabledBySysctl(facts.disabled)
        }
        Some(libc::EPERM | libc::EACCES) if facts.seccomp => UringUnavailable::DeniedBySeccomp,
        Some(libc::EPERM | libc::EACCES) => UringUnavailable::Denied(error),
        Some(libc::ENOMEM) => UringUnavailable::OutOfMemory,
        Some(libc::EMFILE | libc::ENFILE) => UringUnavailable::OutOfFiles(error),
        Some(libc::EINVAL) => UringUnavailable::KernelTooOld(facts.release.clone()),
        Some(_) | None => UringUnavailable::Other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(errno: i32, disabled: u32, seccomp: bool) -> String {
        let facts = Facts { disabled, seccomp, release: "5.4.0".to_owned() };
        explain(io::Error::from_raw_os_error(errno), &facts).to_string()
    }

    #[test]
    fn every_refusal_names_its_knob() {
        let cases = [
            (libc::ENOSYS, 0, false, "CONFIG_IO_URING"),
            (libc::ENOSYS, 0, true, "seccomp"),
            (libc::EPERM, 2, false, "kernel.io_uring_disabled = 2: set it to 0"),
            (libc::EPERM, 1, true, "kernel.io_uring_group"),
            (libc::EPERM, 0, true, "seccomp"),
            (libc::EPERM, 0, false, "security module"),
            (libc::ENOMEM, 0, false, "RLIMIT_MEMLOCK"),
            (libc::EMFILE, 0, false, "RLIMIT_NOFILE"),
            (libc::EINVAL, 0, false, "Linux 5.4.0 is too old: 5.19 or newer"),
            (libc::EIO, 0, false, "could not set io_uring up"),
        ];
        for (errno, disabled, seccomp, knob) in cases {
            let message = message(errno, disabled, seccomp);
            assert!(message.contains(knob), "{message}");
        }
    }

    #[test]
    fn refusal_stays_readable_as_an_io_error() {
        let error = io::Error::from(UringUnavailable::DisabledBySysctl(2));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("kernel.io_uring_disabled"));
    }

    #[test]
    fn every_operation_submitted_is_asked_for() {
        let code =
            [include_str!("operations.rs"), include_str!("polled.rs"), include_str!("../uring.rs")]
                .concat();
        let this = include_str!("setup.rs");
        let submitted: Vec<_> = code
            .split("opcode::")
            .skip(1)
            .filter_map(|rest| rest.split_once("::new(").map(|(name, _)| name))
            .collect();
        assert!(submitted.len() > OPERATIONS.len(), "{submitted:?}");
        for name in submitted {
            assert!(this.contains(&format!("opcode::{name}::CODE")), "{name}");
        }
    }

    #[test]
    fn this_system_has_rings_and_every_operation() {
        io_uring_check().unwrap();
        assert_eq!(operations_missing().unwrap(), <[&str; 0]>::default());
        assert!(zero_copy_send_is_there().unwrap());
    }
}
