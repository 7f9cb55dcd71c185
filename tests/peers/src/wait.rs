//! Waiting for something with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// How long a wait may take before the test fails. Normally it takes milliseconds; the margin is
/// for a machine that is busy with everything else.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Pause between two looks at a state that can only be polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `look` gives a value, and returns it.
///
/// # Panics
/// When it gives none within [`DEADLINE`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until `look` says true.
///
/// # Panics
/// When it does not within [`DEADLINE`].
#[track_caller]
pub fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    wait_for(what, || look().then_some(()));
}
