//! Which CPUs this process may use, and keeping threads to one of them.

use std::io;

use core_affinity::CoreId;

/// Numbers that the kernel's fixed-size set of CPUs has room for: `CPU_SETSIZE`.
const CPUS_MAX: usize = 1024;

/// The numbers of the CPUs that the calling thread may run on, which its affinity and the cpuset of its
/// control group decide. Never empty. A pinned thread has its one CPU only, and so have the threads it makes.
#[must_use]
pub fn allowed_cpus() -> Vec<usize> {
    match core_affinity::get_core_ids() {
        Some(cores) => cores.into_iter().map(|core| core.id).collect(),
        // A system that does not tell, because it has too many, has one at least.
        None => vec![0],
    }
}

/// Makes the calling thread run on `cpu` only.
///
/// # Errors
/// When the CPU is offline or not allowed to this process.
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    if cpu >= CPUS_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    if core_affinity::set_for_current(CoreId { id: cpu }) {
        Ok(())
    } else {
        // It says whether the system call failed; this thread has made no other since.
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_can_be_pinned_to_each_allowed_cpu_and_to_no_other() {
        let cpus = allowed_cpus();
        assert!(!cpus.is_empty());
        for cpu in cpus {
            let pinned = move || {
                pin_current_thread(cpu).unwrap();
                allowed_cpus()
            };
            assert_eq!(thread::spawn(pinned).join().unwrap(), [cpu]);
        }
        let refused = pin_current_thread(1023).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{refused}");
        assert!(pin_current_thread(100_000).is_err());
    }
}
