//! Tells the service manager how far the server is: sd_notify(3), without the library.
//!
//! Without a service manager every method does nothing.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How often to greet a service manager that has no watchdog: it ignores that.
const WITHOUT_WATCHDOG: Duration = Duration::from_secs(3600);
/// Greetings in the time after which the watchdog kills; sd_watchdog_enabled(3) advises two.
const GREETINGS: u32 = 3;

/// The way to the service manager.
#[derive(Debug, Default)]
pub(super) struct Notify {
    /// Its socket, and ours to send from.
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// From the variables that the service manager sets.
    pub(super) fn from_environment() -> Self {
        let text = |name: &str| std::env::var(name).ok();
        let watchdog = watchdog(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id());
        Self::new(std::env::var_os("NOTIFY_SOCKET"), watchdog)
    }

    fn new(address: Option<OsString>, watchdog: Option<Duration>) -> Self {
        let address = address.as_deref().and_then(socket_address);
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let watchdog = watchdog.filter(|_| socket.is_some());
        Self { socket, watchdog }
    }

    /// Sends one assignment. A service manager that cannot be reached notices by itself.
    pub(super) fn send(&self, assignment: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(assignment.as_bytes(), address)
        {
            tracing::debug!("could not notify the service manager: {error}");
        }
    }

    /// How often the watchdog wants to hear of us.
    ///
    /// It is the control plane that answers it: a core that ends or fails ends the process itself.
    pub(super) fn watchdog_interval(&self) -> Duration {
        self.watchdog.map_or(WITHOUT_WATCHDOG, |watchdog| watchdog / GREETINGS)
    }
}

/// `@name` is in the abstract namespace; anything else but a path is of no use.
fn socket_address(address: &OsStr) -> Option<SocketAddr> {
    match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(address).ok(),
        _ => None,
    }
}

/// The time after which the watchdog kills, when it means this process.
fn watchdog(microseconds: Option<String>, pid: Option<String>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let microseconds: u64 = microseconds?.parse().ok()?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_arrives_by_path_and_by_abstract_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("notify");
        let name = format!("walhub-notify-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (manager, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.as_os_str().to_owned()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into()),
        ] {
            Notify::new(Some(address), None).send("READY=1");
            let mut buffer = [0; 64];
            let count = manager.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], b"READY=1");
        }
    }

    #[test]
    fn without_a_service_manager_nothing_happens() {
        for address in [None, Some("".into()), Some("relative".into()), Some("/nowhere/x".into())] {
            Notify::new(address, None).send("READY=1");
        }
        let notify = Notify::new(None, Some(Duration::from_secs(3)));
        assert_eq!(notify.watchdog_interval(), WITHOUT_WATCHDOG);
    }

    #[test]
    fn the_watchdog_hears_of_us_thrice_in_its_time() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(watchdog(some("3000000"), None, 7), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(some("3000000"), some("7"), 7), Some(Duration::from_secs(3)));
        for (microseconds, pid) in
            [(some("3"), some("8")), (some("x"), None), (None, None), (some("0"), None)]
        {
            assert_eq!(watchdog(microseconds, pid, 7), None);
        }
        let notify = Notify::new(Some("/run/x".into()), Some(Duration::from_secs(3)));
        assert_eq!(notify.watchdog_interval(), Duration::from_secs(1));
    }
}
