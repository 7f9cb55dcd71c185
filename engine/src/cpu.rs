//! Which CPUs this process may use, and pinning a core loop to one.

use std::io;

use core_affinity::CoreId;

/// Numbers of the CPUs that the calling thread may run on, sorted. Never empty.
///
/// Call it before any [`pin_current_thread`]: a pinned thread may run on its one CPU only, and so
/// may the threads it makes.
#[must_use]
pub fn allowed_cpus() -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let mut cpus: Vec<_> = ids.iter().map(|core| core.id).collect();
    cpus.sort_unstable();
    if cpus.is_empty() {
        // A system that does not tell has one at least.
        cpus.push(0);
    }
    cpus
}

/// Makes the calling thread run on `cpu` only.
///
/// # Errors
/// When the CPU is offline or not allowed to this process.
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    if core_affinity::set_for_current(CoreId { id: cpu }) {
        Ok(())
    } else {
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
        assert!(pin_current_thread(1023).is_err());
    }
}
