//! Load on a primary, and clients that remember what was acknowledged.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use rustix::process::Signal;

use crate::client::SqlServer;
use crate::log::Log;
use crate::postgres::{Postgres, program};
use crate::process::{Process, command, quick_command, run_ok, spawn, wait_exit};
use crate::scratch::Scratch;
use crate::wait::wait_until;

/// Makes pgbench's tables at `scale`.
///
/// # Panics
/// When pgbench fails.
#[track_caller]
pub fn pgbench_initialize(server: &impl SqlServer, scale: u32) {
    let mut pgbench = quick_command(program("pgbench"));
    pgbench.args(["-i", "-q", "-s", &scale.to_string(), &server.endpoint().database()]);
    run_ok(&mut pgbench);
}

/// What pgbench reported.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PgbenchReport {
    /// Transactions that were committed.
    pub transactions: u64,
    /// Transactions a second.
    pub tps: f64,
}

/// A running pgbench.
#[derive(Debug)]
pub struct Pgbench {
    process: Process,
    log: Log,
}

impl Pgbench {
    /// Starts `clients` clients of `transactions` transactions each.
    #[must_use]
    pub fn start(server: &impl SqlServer, clients: u32, transactions: u32) -> Self {
        let mut pgbench = command(program("pgbench"));
        pgbench
            .args(["-n", "-c", &clients.to_string(), "-t", &transactions.to_string()])
            .arg(server.endpoint().database());
        let log = Log::new("pgbench");
        Self { process: spawn(&mut pgbench, &log), log }
    }

    /// Starts load that ends only when it is stopped, or the server is.
    #[must_use]
    pub fn endless(server: &impl SqlServer, clients: u32) -> Self {
        Self::start(server, clients, 100_000_000)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    pub fn wait(self) -> PgbenchReport {
        let status = wait_exit(&self.process);
        self.log.wait_closed();
        let text = self.log.text(self.log.beginning());
        assert!(status.success(), "pgbench: {status}\n{text}");
        parse_report(&text).unwrap_or_else(|| panic!("what does pgbench report? {text}"))
    }

    /// Ends the load and waits until the server has nothing left of it.
    #[track_caller]
    pub fn stop(self, server: &Postgres) {
        if self.process.is_running() {
            self.process.signal(Signal::TERM);
        }
        wait_exit(&self.process);
        server.wait_sql(
            "select count(*) from pg_stat_activity where application_name = 'pgbench'",
            "0",
        );
    }
}

/// What pgbench's text says.
#[must_use]
pub fn parse_report(text: &str) -> Option<PgbenchReport> {
    let number = |label: &str| {
        let rest = text.split_once(label)?.1;
        rest.split([' ', '/', '\n']).next()
    };
    Some(PgbenchReport {
        transactions: number("actually processed: ")?.parse().ok()?,
        tps: number("tps = ")?.parse().ok()?,
    })
}

/// Waits until at least `more` further pgbench transactions have been committed.
#[track_caller]
pub fn wait_transactions(server: &Postgres, more: u64) {
    let count = || server.psql("select count(*) from pgbench_history").parse().unwrap_or(0_u64);
    let before = count();
    wait_until("pgbench has committed more", || count() >= before + more);
}

/// Clients that insert numbered rows and remember which commits were acknowledged to them.
#[derive(Debug)]
pub struct Inserters {
    clients: Vec<(Process, Log)>,
}

/// A statement of [`Inserters`] prints its row's number, its transaction, and this.
const ACKNOWLEDGED: &str = "committed";

/// Rows that one inserter tries to insert.
const ROWS_PER_CLIENT_MAX: u64 = 50_000;

impl Inserters {
    /// Makes the table `acknowledged`.
    #[track_caller]
    pub fn initialize(server: &impl SqlServer) {
        server
            .psql("create table acknowledged (id bigint primary key, t timestamptz default now())");
    }

    /// Starts `clients` clients; `round` keeps the numbers of several starts apart.
    #[must_use]
    pub fn start(server: &impl SqlServer, clients: u64, round: u64, scratch: &Scratch) -> Self {
        let start_one = |client: u64| {
            let first = (round * clients + client) * ROWS_PER_CLIENT_MAX;
            let mut script = String::new();
            for id in first..first + ROWS_PER_CLIENT_MAX {
                // Printed by psql only when the whole statement, its commit included, is done.
                let _ = writeln!(
                    script,
                    "insert into acknowledged values ({id}) \
                     returning id, pg_current_xact_id(), '{ACKNOWLEDGED}';"
                );
            }
            let path = scratch.path(&format!("inserter-{first}.sql"));
            fs::write(&path, script).expect("a script");
            // Line buffered, so that progress is seen while it runs.
            let mut psql = command("stdbuf");
            psql.arg("--output=L").arg(program("psql"));
            psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &server.endpoint().database()]);
            psql.arg("-f").arg(path);
            let log = Log::new("inserter");
            (spawn(&mut psql, &log), log)
        };
        Self { clients: (0..clients).map(start_one).collect() }
    }

    /// How many commits were acknowledged until now.
    #[must_use]
    pub fn acknowledged_count(&self) -> usize {
        self.clients.iter().map(|(_, log)| log.count(log.beginning(), ACKNOWLEDGED)).sum()
    }

    /// Waits until at least `more` further commits were acknowledged.
    #[track_caller]
    pub fn wait_more(&self, more: usize) {
        let before = self.acknowledged_count();
        wait_until("more commits are acknowledged", || self.acknowledged_count() >= before + more);
    }

    /// Waits until every client has lost its server, and gives the acknowledged rows and their
    /// transactions.
    ///
    /// # Panics
    /// When a client runs on.
    #[track_caller]
    pub fn finish(self) -> BTreeMap<u64, u64> {
        let mut acknowledged = BTreeMap::new();
        for (process, log) in &self.clients {
            wait_exit(process);
            log.wait_closed();
            for line in log.text(log.beginning()).lines() {
                let mut fields = line.split('|');
                let row = fields.next().and_then(|id| id.parse().ok());
                let transaction = fields.next().and_then(|xid| xid.parse().ok());
                if let (Some(row), Some(transaction)) = (row, transaction)
                    && fields.next() == Some(ACKNOWLEDGED)
                {
                    acknowledged.insert(row, transaction);
                }
            }
        }
        acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pgbench_report() {
        let text = "number of transactions actually processed: 400/400\n\
                    latency average = 1.2 ms\ntps = 1234.500000 (without initial connection time)\n";
        let report = parse_report(text).expect("a report");
        assert_eq!(report, PgbenchReport { transactions: 400, tps: 1234.5 });
        assert_eq!(parse_report("pgbench: error: connection failed"), None);
    }
}
