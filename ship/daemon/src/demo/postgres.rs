//! The demo with a PostgreSQL primary and standby.
use super::DemoArgs;
use std::process::ExitCode;
pub(super) fn run(_: &DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("soon")
}
