//! Which CPUs this process may use, and keeping threads to one of them.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// CPUs that a thread may run on.
#[derive(Clone, Copy, Debug)]
pub struct Cpus {
    set: CpuSet,
}

impl Cpus {
    /// Those of the calling thread. A pinned thread has its one CPU only, and so have the threads it
    /// makes.
    ///
    /// # Errors
    /// On a machine with more CPUs than the kernel's fixed-size set has room for.
    pub fn of_current_thread() -> io::Result<Self> {
        Ok(Self { set: sched_getaffinity(None)? })
    }

    /// The numbers of its CPUs, in ascending order.
    #[must_use]
    pub fn numbers(&self) -> Vec<usize> {
        (0..CpuSet::MAX_CPU).filter(|&cpu| self.set.is_set(cpu)).collect()
    }

    /// Makes the calling thread run on any of these.
    ///
    /// # Errors
    /// When none of them is online and allowed to this process.
    pub fn give_to_current_thread(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.set)?)
    }
}

/// As [`Cpus::numbers`] of the calling thread. Never empty.
#[must_use]
pub fn allowed_cpus() -> Vec<usize> {
    match Cpus::of_current_thread() {
        Ok(cpus) => cpus.numbers(),
        // A system that does not tell has one at least.
        Err(_) => vec![0],
    }
}

/// Makes the calling thread run on `cpu` only.
///
/// # Errors
/// When the CPU is offline or not allowed to this process.
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
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
        assert!(pin_current_thread(100_000).is_err());
    }

    #[test]
    fn a_pinned_thread_is_given_its_cpus_back() {
        let cpus = Cpus::of_current_thread().unwrap();
        let there_and_back = move || {
            pin_current_thread(cpus.numbers()[0]).unwrap();
            cpus.give_to_current_thread().unwrap();
            allowed_cpus()
        };
        assert_eq!(thread::spawn(there_and_back).join().unwrap(), cpus.numbers());
    }
}
