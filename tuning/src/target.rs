//! Where a knob lies on this machine, and what is there now.

use crate::limits;
use crate::machine::Machine;
use crate::profile::{Kind, Knob};
use crate::system::{System, normalized};

/// Where the CPU frequency policies are.
pub const CPU_POLICIES: &str = "/sys/devices/system/cpu/cpufreq";

/// One place where a knob has a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The disk, CPU policy, card or mount; empty for what there is one of.
    pub place: String,
    /// The file of the value, when the value is a file that can be written.
    pub path: Option<String>,
    /// The value now; `None` when this kernel or machine has no such knob.
    pub now: Option<String>,
}

/// The file of a sysctl.
#[must_use]
pub fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

/// The file of a module's parameter.
#[must_use]
pub fn module_path(name: &str) -> String {
    format!("/sys/module/{}", name.replacen('.', "/parameters/", 1))
}

/// All places of a knob; none when the machine has nothing of the kind.
#[must_use]
pub fn targets(system: &dyn System, machine: &Machine, knob: &Knob) -> Vec<Target> {
    let file = |place: &str, path: String| {
        let now = system.read(&path).ok().map(|text| normalized(&text));
        Target { place: place.to_owned(), path: Some(path), now }
    };
    let name = &knob.name;
    match knob.kind {
        Kind::Sysctl => vec![file("", sysctl_path(name))],
        Kind::Block => {
            let attribute = |disk: &String| file(disk, format!("/sys/block/{disk}/queue/{name}"));
            machine.disks.iter().map(attribute).collect()
        }
        Kind::Cpu => {
            let policies = system.list(CPU_POLICIES).into_iter();
            let policies = policies.filter(|policy| policy.starts_with("policy"));
            policies
                .map(|policy| file(&policy, format!("{CPU_POLICIES}/{policy}/{name}")))
                .collect()
        }
        Kind::Module => vec![file("", module_path(name))],
        Kind::Limit | Kind::Service => {
            let now = limits::now(system, knob, true);
            vec![Target { place: "walhub@.service".to_owned(), path: None, now }]
        }
        Kind::Nic => machine.interfaces.iter().map(|card| nic(system, card, name)).collect(),
        Kind::Mount => machine
            .mount
            .iter()
            .map(|mount| {
                let is_set = mount.options.contains(name);
                let now = Some(if is_set { "on" } else { "off" }.to_owned());
                Target { place: mount.point.clone(), path: None, now }
            })
            .collect(),
        Kind::Advice => shown(system, machine, knob.shows.as_deref()),
    }
}

/// What there is to see about an advice.
fn shown(system: &dyn System, machine: &Machine, shows: Option<&str>) -> Vec<Target> {
    let see = |place: &str, path: &str| {
        let now = system.read(path).ok().map(|text| normalized(&text));
        let now = now.map(|now| if now.is_empty() { "none".to_owned() } else { now });
        Target { place: place.to_owned(), path: None, now }
    };
    match shows {
        None => vec![Target { place: String::new(), path: None, now: None }],
        Some(path) if path.contains("/IF/") => {
            let of = |card: &String| see(card, &path.replace("/IF/", &format!("/{card}/")));
            machine.interfaces.iter().map(of).collect()
        }
        Some(path) => vec![see("", path)],
    }
}

/// What ethtool says about a card.
fn nic(system: &dyn System, card: &str, name: &str) -> Target {
    let now = match name.strip_suffix("-ring") {
        Some(ring) => system.ethtool(&["-g", card]).and_then(|text| ring_size(&text, ring)),
        None if name.ends_with("-usecs") => {
            let value = system.ethtool(&["-c", card]).and_then(|text| feature(&text, name));
            value.filter(|value| value != "n/a")
        }
        None => system.ethtool(&["-k", card]).and_then(|text| feature(&text, name)),
    };
    Target { place: card.to_owned(), path: None, now }
}

/// The value of a line in the output of `ethtool -k` or `ethtool -c`.
fn feature(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next().map(str::to_owned)
}

/// The size of a ring in the output of `ethtool -g`, `maximum` when it is that.
fn ring_size(text: &str, ring: &str) -> Option<String> {
    let label = format!("{}:", ring.to_uppercase());
    let mut sizes = text.lines().filter_map(|line| Some(line.strip_prefix(&label)?.trim()));
    // The maximum comes first, then what is set.
    let (maximum, now) = (sizes.next()?, sizes.next()?);
    if now == "n/a" {
        return None;
    }
    Some(if now == maximum { "maximum".to_owned() } else { format!("{now} of {maximum}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn advice_shows_how_it_is_on_each_card() {
        let scratch = Scratch::new(&[
            ("/sys/class/net/eth0/device/numa_node", "-1\n"),
            ("/sys/class/net/eth0/queues/rx-0/rps_cpus", "3\n"),
            ("/sys/class/net/eth1/device/numa_node", "0\n"),
            ("/sys/devices/system/cpu/isolated", "\n"),
        ]);
        let machine = Machine::recognise(&scratch.tree, "/data");
        let seen = |path| {
            let targets = shown(&scratch.tree, &machine, Some(path)).into_iter();
            targets.map(|target| (target.place, target.now)).collect::<Vec<_>>()
        };
        let rps = seen("/sys/class/net/IF/queues/rx-0/rps_cpus");
        let (eth0, eth1) = ("eth0".to_owned(), "eth1".to_owned());
        assert_eq!(rps, [(eth0, Some("3".to_owned())), (eth1, None)]);
        let isolated = seen("/sys/devices/system/cpu/isolated");
        assert_eq!(isolated, [(String::new(), Some("none".to_owned()))]);
    }

    #[test]
    fn ethtool_is_understood() {
        let features = "Features for eth0:\nrx-checksumming: on [fixed]\n\
                        tcp-segmentation-offload: off\n\ttx-tcp-segmentation: on\n";
        assert_eq!(feature(features, "tcp-segmentation-offload").unwrap(), "off");
        assert_eq!(feature(features, "tx-tcp-segmentation").unwrap(), "on");
        assert_eq!(feature(features, "rx-checksumming").unwrap(), "on");
        assert_eq!(feature(features, "rx"), None);
        let coalescing = "Coalesce parameters for eth0:\nAdaptive RX: off  TX: n/a\n\
                          rx-usecs:\t50\nrx-frames:\tn/a\nrx-usecs-irq:\tn/a\n";
        assert_eq!(feature(coalescing, "rx-usecs").unwrap(), "50");
        let rings = "Ring parameters for eth0:\nPre-set maximums:\nRX:\t\t8192\nRX Mini:\tn/a\n\
                     TX:\t\t8192\nCurrent hardware settings:\nRX:\t\t1024\nRX Mini:\tn/a\nTX:\t\t8192\n";
        assert_eq!(ring_size(rings, "rx").unwrap(), "1024 of 8192");
        assert_eq!(ring_size(rings, "tx").unwrap(), "maximum");
        assert_eq!(ring_size(rings, "rx mini"), None);
    }
}
