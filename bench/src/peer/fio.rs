//! fio: durable writes as the storage people measure them.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::program::{FIO, command};

/// What one run of fio saw.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Outcome {
    /// Durable writes a second.
    pub rate: f64,
    /// Median microseconds of one: of the write, and of the flush after it.
    pub p50_us: f64,
    /// The 99th percentile of the same, those of write and flush added.
    pub p99_us: f64,
}

/// Overwrites `file`, which is there, from its start to `len`, `block` bytes at once, each durable
/// before the next. `how` is fio's own option for that: `--sync=dsync` or `--fdatasync=1`.
///
/// # Errors
/// When fio is missing or fails.
pub fn write(file: &Path, len: u64, block: usize, direct: bool, how: &str) -> Result<Outcome> {
    let mut fio = command(FIO.find()?);
    fio.arg("--name=write").arg(format!("--filename={}", file.display()));
    fio.args(["--rw=write", "--ioengine=psync", "--fallocate=none", "--allow_file_create=0"]);
    fio.args(["--invalidate=0", "--output-format=json", how]);
    fio.arg(format!("--size={len}")).arg(format!("--bs={block}"));
    fio.arg(format!("--direct={}", u8::from(direct)));
    let printed = FIO.run(&mut fio)?;
    parse(&printed).with_context(|| format!("fio printed:\n{printed}"))
}

fn parse(printed: &str) -> Option<Outcome> {
    // It may say something before.
    let json: Value = serde_json::from_str(printed.get(printed.find('{')?..)?).ok()?;
    let job = json.get("jobs")?.get(0)?;
    let write = job.get("write")?;
    let percentile =
        |of: &Value, which: &str, name: &str| of.get(which)?.get("percentile")?.get(name)?.as_f64();
    let both = |name: &str| {
        let flush = job.get("sync").and_then(|sync| percentile(sync, "lat_ns", name));
        Some((percentile(write, "clat_ns", name)? + flush.unwrap_or(0.0)) / 1e3)
    };
    Some(Outcome {
        rate: write.get("iops")?.as_f64()?,
        p50_us: both("50.000000")?,
        p99_us: both("99.000000")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_and_its_flush_are_added() {
        let json = r#"note
            {"jobs": [{"write": {"iops": 2000.0,
                                 "clat_ns": {"percentile": {"50.000000": 1000, "99.000000": 3000}}},
                       "sync": {"lat_ns": {"percentile": {"50.000000": 500000, "99.000000": 900000}}}}]}"#;
        let want = Outcome { rate: 2000.0, p50_us: 501.0, p99_us: 903.0 };
        assert_eq!(parse(json), Some(want));
        assert_eq!(parse("fio: failed"), None);
    }
}
