//! Rows of `walhub.messages`: the messages that committed transactions and none have left in the WAL.
//!
//! They are read from the segment files, batch by batch on another thread, so that a long read holds
//! no other session up. What WHERE, ORDER BY and LIMIT say about the position and the prefix is
//! taken into account while reading; `count(*)` holds no rows.
//!
//! Not here: the stream of a logical slot (`replication`).

use std::cell::RefCell;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use walhub_engine::crc::crc32c;
use walhub_proto::decode::{
    Change, DecodeError, Decoder, DecoderConfig, Message, Reread, reading_start,
};
use walhub_proto::lsn::{Lsn, SystemIdentifier};
use walhub_proto::page::{FIRST_IS_CONTRECORD, PageHeader, WalVersion};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use super::SettingsView;
use super::context::Context;
use super::emit::Emitter;
use super::execute::reads_and_writes;
use super::memory::Reservation;
use super::offload::{Arguments, Stop};
use super::session::Backend;
use super::statement::Prepared;
use super::views::is_messages;
use super::wire::Wire;
use walhub_hub::api::append::DATABASE;
use walhub_hub::store::wal_reader::WalReader;
use walhub_sql::env::{Env, Scan};
use walhub_sql::failure::{Failure, PROGRAM_LIMIT_EXCEEDED, Result, fail, hinted, unsupported};
use walhub_sql::plan::{Aggregate, Expr, Node, Plan, Source};
use walhub_sql::run::{retain, row_count};
use walhub_sql::value::Value;
use walhub_sql::value::comparison::Comparison;
use walhub_sql::value::row::{Rows, cost};
use walhub_sql::value::types::Type;

/// Columns of the relation.
pub(super) const COLUMNS: &[(&str, Type)] = &[
    ("lsn", Type::Lsn),
    ("xid", Type::Xid),
    ("prefix", Type::Text),
    ("content", Type::Bytea),
    ("transactional", Type::Bool),
];
const LSN: usize = 0;
const PREFIX: usize = 2;

/// Bytes of rows that one statement may hold.
const ROWS_BYTES_MAX: usize = 64 << 20;
/// Rows that are looked at on the sessions' thread.
const ROWS_HERE_MAX: usize = 100;
/// Rows, their bytes, and WAL after which a batch is handed over.
const BATCH_ROWS: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;
const BATCH_WAL_BYTES: usize = 16 << 20;
/// Bytes of open transactions that are kept; what is beyond is read again at their commit.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// What was read for a statement.
#[derive(Debug)]
pub(super) struct Fetched {
    rows: RefCell<Rows>,
    memory: Reservation,
    /// How many there are, when only that is wanted.
    pub(super) count: Option<i64>,
    /// Whether WHERE holds for all of them.
    pub(super) is_filtered: bool,
}

impl Fetched {
    /// Whether what is done with the rows takes but a moment.
    pub(super) fn is_small(&self) -> bool {
        self.rows.borrow().len() <= ROWS_HERE_MAX && self.memory.bytes() <= BATCH_BYTES
    }
}

/// What the relation has. Where the rows were read for one place in the query, that takes them once.
pub(super) fn scan(ctx: &Context<'_>) -> Scan {
    let Some(fetched) = ctx.messages else { return Scan::default() };
    Scan {
        rows: if fetched.is_filtered && ctx.is_offloaded {
            fetched.rows.take()
        } else {
            fetched.rows.borrow().clone()
        },
        is_filtered: fetched.is_filtered,
        count: fetched.count,
        is_counted: true,
    }
}

/// The query that reads the relation, when it is this one or one in its FROM.
fn reader(plan: &Plan) -> Option<&Plan> {
    match &plan.source {
        Source::Relation(relation) => is_messages(relation).then_some(plan),
        Source::Query(plan) => reader(plan),
        Source::Nothing | Source::Series(_) | Source::Values(_) | Source::Join(_) => None,
    }
}

/// Whether nothing but the number of rows is wanted.
fn only_counts(plan: &Plan) -> bool {
    plan.grouping.as_ref().is_some_and(|grouping| {
        grouping.keys.is_empty()
            && grouping.aggregates.iter().all(|call| {
                call.aggregate == Aggregate::Count
                    && call.argument.is_none()
                    && call.filter.is_none()
            })
    })
}

/// How many rows are wanted at most, and whether the last ones.
fn limit_of(plan: &Plan, env: &Env<'_>) -> Result<Option<(usize, bool)>> {
    let plain = plan.grouping.is_none() && plan.having.is_none() && !plan.distinct;
    let Some(limit) = row_count(plan.limit.as_ref(), "LIMIT", env)? else { return Ok(None) };
    let offset = row_count(plan.offset.as_ref(), "OFFSET", env)?.unwrap_or(0);
    let descending = match plan.order.first() {
        None => false,
        Some(key) => {
            let by = plan.outputs.get(key.output).map(|output| &output.expr.node);
            if by != Some(&Node::Column(LSN)) {
                return Ok(None);
            }
            key.direction.descending
        }
    };
    Ok(plain.then_some((limit.saturating_add(offset), descending)))
}

/// What of the WAL can hold rows.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wanted {
    lower: Lsn,
    upper: Lsn,
    prefix: Option<Vec<u8>>,
}

impl Wanted {
    /// Takes what a condition says about position and prefix into account.
    fn narrow(&mut self, condition: &Expr, env: &Env<'_>) -> Result<()> {
        match &condition.node {
            Node::And(left, right) => {
                self.narrow(left, env)?;
                self.narrow(right, env)?;
            }
            Node::Between { operand, low, high, negated: false } => {
                self.compare(Comparison::GtEq, operand, low, env)?;
                self.compare(Comparison::LtEq, operand, high, env)?;
            }
            Node::Compare(comparison, left, right) => {
                self.compare(*comparison, left, right, env)?;
                self.compare(comparison.mirrored(), right, left, env)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn compare(
        &mut self,
        comparison: Comparison,
        column: &Expr,
        bound: &Expr,
        env: &Env<'_>,
    ) -> Result<()> {
        let Node::Column(column) = column.node else { return Ok(()) };
        if !is_fixed(bound) {
            return Ok(());
        }
        match (column, bound.eval(&[], env)?) {
            // LSNs are whole numbers, but the condition itself is evaluated on each row anyway.
            (LSN, Value::Lsn(lsn)) => match comparison {
                Comparison::Eq => {
                    self.lower = self.lower.max(lsn);
                    self.upper = self.upper.min(lsn);
                }
                Comparison::Gt | Comparison::GtEq => self.lower = self.lower.max(lsn),
                Comparison::Lt | Comparison::LtEq => self.upper = self.upper.min(lsn),
                Comparison::NotEq => {}
            },
            (PREFIX, Value::Text(prefix)) if comparison == Comparison::Eq => {
                self.prefix = Some(prefix.into_bytes());
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether an expression has one value for the whole statement, and none looks when it is evaluated.
fn is_fixed(expr: &Expr) -> bool {
    match &expr.node {
        Node::Const(_) | Node::Param(_) => true,
        Node::Cast(operand, _) => is_fixed(operand),
        _ => false,
    }
}

/// Reads the WAL from one position on.
struct Scanner {
    reader: WalReader,
    decoder: Decoder,
    reread: Option<Box<Reread>>,
    /// The transaction that comes out.
    xid: Option<u32>,
    wanted: Wanted,
    /// Where the WAL ended when the statement began.
    end: Lsn,
    /// Of the record that is read, what is kept of open transactions, and the batch.
    memory: Reservation,
    stop: Stop,
}

/// Some rows, in the order of the commits.
#[derive(Default)]
struct Batch {
    rows: Rows,
    bytes: usize,
    /// No row that is still to come lies before; unknown within a transaction.
    floor: Option<Lsn>,
    at_end: bool,
}

impl Batch {
    fn is_full(&self, wal_bytes: usize) -> bool {
        self.rows.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES || wal_bytes >= BATCH_WAL_BYTES
    }
}

impl Scanner {
    /// `None` when there is no WAL that could hold what is wanted.
    fn new(
        mut reader: WalReader,
        system_identifier: SystemIdentifier,
        wanted: Wanted,
        memory: Reservation,
        stop: Stop,
    ) -> std::result::Result<Option<Self>, Report> {
        let end = reader.flush_lsn();
        if wanted.lower > end || wanted.lower > wanted.upper {
            return Ok(None);
        }
        let Some((start_reading, version)) = start(&mut reader, wanted.lower)? else {
            return Ok(None);
        };
        let decoder = Decoder::new(DecoderConfig {
            system_identifier,
            segment_size: reader.segment_size(),
            version,
            crc: crc32c,
            database: DATABASE,
            start_reading,
            start_decoding_at: start_reading,
            kept_bytes_max: KEPT_BYTES_MAX,
        });
        let (reread, xid) = (None, None);
        Ok(Some(Self { reader, decoder, reread, xid, wanted, end, memory, stop }))
    }

    /// Reads on until there is enough for now.
    fn next_batch(&mut self) -> std::result::Result<Batch, Report> {
        let mut batch = Batch::default();
        let mut wal_bytes = 0;
        while !batch.is_full(wal_bytes) && !self.stop.is_asked_for() {
            if let Some(reread) = &mut self.reread {
                if let Some(message) = reread.poll_message() {
                    self.take(message, &mut batch);
                } else if let Some(next) = reread.next_lsn() {
                    let bytes = self.reader.read(next)?;
                    wal_bytes += bytes.len();
                    if bytes.is_empty() {
                        return Err(gone(next));
                    }
                    reread.handle_wal(bytes).map_err(undecodable)?;
                    self.reserve(&batch)?;
                } else {
                    self.reread = None;
                }
            } else if let Some(change) = self.decoder.poll_change() {
                match change {
                    Change::Begin(begin) => self.xid = Some(begin.xid),
                    Change::Commit(_) => self.xid = None,
                    Change::Message(message) => self.take(message, &mut batch),
                    Change::Reread(reread) => self.reread = Some(reread),
                }
            } else {
                self.decoder.handle_confirmed(self.decoder.decoded_lsn());
                let floor = self.decoder.restart_lsn(Lsn::MAX);
                batch.floor = Some(floor);
                let next = self.decoder.next_lsn();
                if next >= self.end || floor > self.wanted.upper {
                    batch.at_end = true;
                    break;
                }
                let bytes = self.reader.read(next)?;
                let wanted = usize::try_from(self.end - next).unwrap_or(usize::MAX);
                let bytes = bytes.get(..wanted).unwrap_or(bytes);
                if bytes.is_empty() {
                    return Err(gone(next));
                }
                wal_bytes += bytes.len();
                self.decoder.handle_wal(bytes).map_err(undecodable)?;
                self.reserve(&batch)?;
                batch.floor = None;
            }
        }
        Ok(batch)
    }

    /// A record may be as large as a gigabyte, and is in memory as a whole, and then as a message.
    fn reserve(&mut self, batch: &Batch) -> std::result::Result<(), Report> {
        let reread = self.reread.as_ref().map_or(0, |reread| reread.held_bytes());
        let bytes = batch.bytes + self.decoder.held_bytes() + reread;
        self.memory.shrink_to(bytes);
        self.memory.grow_to(bytes).map_err(|failure| *failure)
    }

    fn take(&self, message: Message, batch: &mut Batch) {
        let Wanted { lower, upper, prefix } = &self.wanted;
        let is_wanted = (*lower..=*upper).contains(&message.lsn)
            && prefix.as_ref().is_none_or(|prefix| *prefix == message.prefix);
        if !is_wanted {
            return;
        }
        let xid = self.xid.filter(|_| message.transactional);
        let row = vec![
            Value::Lsn(message.lsn),
            Value::or_null(xid, |xid| Value::Int(i64::from(xid))),
            Value::Text(String::from_utf8_lossy(&message.prefix).into_owned()),
            Value::Bytes(message.content),
            Value::Bool(message.transactional),
        ];
        batch.bytes += cost(&row);
        batch.rows.push(row);
    }
}

/// Where to begin to read so that a message that ends at `lower` is seen from its beginning, which
/// may be many segments before; and the version of the WAL there.
fn start(
    reader: &mut WalReader,
    lower: Lsn,
) -> std::result::Result<Option<(Lsn, WalVersion)>, Report> {
    let (size, oldest) = (reader.segment_size(), reader.oldest_lsn());
    let mut lsn = reading_start(Lsn(lower.0.saturating_sub(1)), size, oldest);
    loop {
        let bytes = reader.read(lsn)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let header = PageHeader::decode(bytes).ok_or_else(|| gone(lsn))?;
        if header.has(FIRST_IS_CONTRECORD) && lsn > oldest {
            lsn = Lsn(lsn.0.saturating_sub(size.bytes())).max(oldest);
            continue;
        }
        let version = WalVersion::from_magic(header.magic).ok_or_else(|| gone(lsn))?;
        return Ok(Some((lsn, version)));
    }
}

fn gone(lsn: Lsn) -> Report {
    Report::error(SqlState::INTERNAL_ERROR, format!("could not find WAL at {lsn}"))
}

fn undecodable(error: DecodeError) -> Report {
    Report::error(SqlState::INTERNAL_ERROR, error.to_string())
}

fn too_large() -> Failure {
    hinted(
        fail(PROGRAM_LIMIT_EXCEEDED, "result of the statement is too large"),
        "A statement may hold 64 MB of rows of walhub.messages. Use LIMIT, and for the rows after it \
         a condition on lsn. count(*) holds no rows.",
    )
}

impl<V: SettingsView> Backend<V> {
    /// Reads what the statement wants of the relation.
    pub(super) async fn fetch_messages<S>(
        &mut self,
        wire: &mut Wire<S>,
        prepared: &Prepared,
        plan: &Plan,
        arguments: &Arguments,
    ) -> Result<Fetched>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.params.hub.in_recovery() {
            let failure = unsupported("walhub.messages of WAL that is not walhub's own");
            return Err(hinted(failure, "An upstream's messages can be decoded at the upstream."));
        }
        // What is asked for twice is read once, and all of it.
        let query = reader(plan).filter(|_| prepared.message_scans == 1);
        let mut wanted = Wanted { lower: Lsn(0), upper: Lsn::MAX, prefix: None };
        let mut limit = None;
        if let Some(query) = query {
            self.glance(arguments, |env| {
                if let Some(filter) = &query.filter {
                    wanted.narrow(filter, env)?;
                }
                limit = limit_of(query, env)?;
                Ok(())
            })?;
        }
        let count = query.is_some_and(only_counts).then_some(0);
        let (rows, is_filtered) = (RefCell::default(), query.is_some());
        let fetched = Fetched { rows, memory: self.account.reservation(), count, is_filtered };
        let (Some(identity), Some(reader)) =
            (self.params.hub.identity(), self.params.hub.wal_reader())
        else {
            return Ok(fetched);
        };
        let mut fetching = Fetching { fetched, bytes: 0, limit };
        let turns = Arc::clone(&self.params.sessions.turns().reads);
        let (memory, stop) = (self.account.reservation(), Stop::default());
        let asked = stop.clone();
        let begin = move || Scanner::new(reader, identity.system_identifier, wanted, memory, asked);
        let scanner = self.offload(wire, Arc::clone(&turns), stop.clone(), begin).await?;
        let Some(mut scanner) = scanner.map_err(Box::new)? else { return Ok(fetching.fetched) };
        let filter = query.and_then(|query| query.filter.clone());
        loop {
            let (owned_context, kept) =
                (self.owned_context(arguments, stop.clone()), filter.clone());
            let read = move || {
                let mut batch = scanner.next_batch().map_err(Box::new)?;
                let emitter = Emitter::default();
                // Each batch may take as many steps as a statement.
                let ctx = owned_context.context(&emitter, None);
                retain(&mut batch.rows, kept.as_ref(), &owned_context.env(&ctx))?;
                drop(ctx);
                if !emitter.take().0.is_empty() {
                    return Err(reads_and_writes());
                }
                Ok((scanner, batch))
            };
            let batch: Result<(Scanner, Batch)> =
                self.offload(wire, Arc::clone(&turns), stop.clone(), read).await?;
            let (back, batch) = batch?;
            scanner = back;
            if fetching.take(batch)? {
                return Ok(fetching.fetched);
            }
        }
    }
}

/// What was read so far.
struct Fetching {
    fetched: Fetched,
    bytes: usize,
    /// How many rows are wanted, and whether the last ones.
    limit: Option<(usize, bool)>,
}

impl Fetching {
    /// Takes a batch; whether nothing more is wanted.
    fn take(&mut self, batch: Batch) -> Result<bool> {
        let Batch { rows, floor, at_end, .. } = batch;
        if let Some(count) = &mut self.fetched.count {
            *count += i64::try_from(rows.len()).expect("a batch is small");
            return Ok(at_end);
        }
        self.bytes += rows.iter().map(|row| cost(row)).sum::<usize>();
        self.fetched.memory.grow_to(self.bytes)?;
        self.fetched.rows.get_mut().extend(rows);
        let mut has_enough = false;
        if let Some((limit, descending)) = self.limit {
            let kept = self.fetched.rows.get_mut();
            kept.sort_by_key(|row| lsn_of(row));
            if descending {
                kept.reverse();
            }
            self.bytes -= kept.iter().skip(limit).map(|row| cost(row)).sum::<usize>();
            kept.truncate(limit);
            let last = kept.last().map_or(Lsn(0), |row| lsn_of(row));
            has_enough = !descending && kept.len() == limit && floor.is_some_and(|lsn| lsn >= last);
        }
        if self.bytes > ROWS_BYTES_MAX {
            return Err(too_large());
        }
        Ok(at_end || has_enough)
    }
}

fn lsn_of(row: &[Value]) -> Lsn {
    match row.first() {
        Some(Value::Lsn(lsn)) => *lsn,
        _ => Lsn(0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Account;
    use super::*;

    fn batch(lsns: &[u64], floor: Option<u64>) -> Batch {
        let rows = lsns.iter().map(|lsn| vec![Value::Lsn(Lsn(*lsn)), Value::Bytes(vec![0; 1000])]);
        Batch { rows: rows.collect(), floor: floor.map(Lsn), ..Batch::default() }
    }

    fn fetching(limit: Option<(usize, bool)>) -> Fetching {
        let memory = Account::new(Arc::default()).reservation();
        let fetched = Fetched { rows: RefCell::default(), memory, count: None, is_filtered: true };
        Fetching { fetched, bytes: 0, limit }
    }

    fn kept(fetching: &Fetching) -> Vec<u64> {
        fetching.fetched.rows.borrow().iter().map(|row| lsn_of(row).0).collect()
    }

    #[test]
    fn reading_stops_when_no_row_that_comes_later_can_be_among_the_first() {
        let mut first = fetching(Some((3, false)));
        assert!(!first.take(batch(&[10, 40, 50, 60], Some(20))).unwrap());
        assert_eq!(kept(&first), [10, 40, 50]);
        // Within a transaction that is read again nothing is known.
        assert!(!first.take(batch(&[90], None)).unwrap());
        assert!(!first.take(batch(&[20, 30], Some(25))).unwrap());
        assert!(first.take(batch(&[70], Some(70))).unwrap());
        assert_eq!(kept(&first), [10, 20, 30]);
        let mut last = fetching(Some((2, true)));
        assert!(!last.take(batch(&[10, 40, 50], Some(50))).unwrap());
        assert!(!last.take(batch(&[45], Some(60))).unwrap());
        assert_eq!(kept(&last), [50, 45]);
    }

    #[test]
    fn a_limit_bounds_what_is_held_and_without_one_there_is_an_error() {
        let mut limited = fetching(Some((10, true)));
        let mut all = fetching(None);
        let per_batch: Vec<u64> = (0..1000).collect();
        let failure = (0..1000).find_map(|_| {
            assert!(!limited.take(batch(&per_batch, None)).unwrap());
            all.take(batch(&per_batch, None)).err()
        });
        assert_eq!(failure.unwrap().message, "result of the statement is too large");
        assert!(all.bytes < ROWS_BYTES_MAX + (2 << 20));
        assert_eq!(kept(&limited), [999; 10]);
        let mut count = fetching(None);
        count.fetched.count = Some(0);
        for _ in 0..1000 {
            assert!(!count.take(batch(&per_batch, None)).unwrap());
        }
        let rows = count.fetched.rows.borrow().len();
        assert_eq!((count.fetched.count, rows), (Some(1_000_000), 0));
    }
}
