//! The only reader of time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds of CLOCK_MONOTONIC: since some moment before this process, never backwards.
///
/// # Panics
/// If the system has no such clock.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, into a local that outlives the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    assert_eq!(result, 0, "Linux has CLOCK_MONOTONIC");
    let seconds = u64::try_from(now.tv_sec).expect("monotonic time is not negative");
    let nanos = u64::try_from(now.tv_nsec).expect("nanoseconds are not negative");
    seconds * 1_000_000_000 + nanos
}

/// Microseconds since the Unix epoch, negative before it. May jump when the clock is set.
///
/// # Panics
/// If the clock is set some 290,000 years away.
#[must_use]
pub fn unix_micros() -> i64 {
    let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()),
        Err(before) => i64::try_from(before.duration().as_micros()).map(|micros| -micros),
    };
    micros.expect("microseconds fit for 290,000 years")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_moves_forward() {
        let first = monotonic_ns();
        while monotonic_ns() == first {}
        assert!(monotonic_ns() > first);
    }

    #[test]
    fn monotonic_time_is_the_kernels() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // CLOCK_MONOTONIC stands still while suspended, uptime does not.
        assert!(
            monotonic_ns()
                <= u64::try_from(std::time::Duration::from_secs_f64(seconds + 1.0).as_nanos())
                    .unwrap()
        );
    }

    #[test]
    fn unix_time_is_in_this_century() {
        let micros = unix_micros();
        assert!((1_700_000_000_000_000..4_102_444_800_000_000).contains(&micros));
    }
}
