//! Queries and their answers.

use super::{answer, answer_of, snapshot};
use walhub_proto::lsn::Lsn;

/// The first value of the first row.
fn value(sql: &str) -> String {
    let lines = answer(sql);
    assert!(lines.len() == 3 && lines[0].starts_with('T'), "{sql}: {lines:?}");
    lines[1].clone()
}

fn error(sql: &str) -> String {
    answer(sql).pop().unwrap()
}

/// Queries without relations, and their rows; a live test asks PostgreSQL the same.
pub(super) const EXPRESSIONS: &[(&str, &str)] = &[
    ("select 1", "1"),
    ("select 1 + 2 * 3", "7"),
    ("select 7 / 2, 7.0 / 2, 7 % 4, -7 / 2, 2 ^ 10", "3|3.5000000000000000|3|-3|1024"),
    ("select 3000000000 * 2", "6000000000"),
    ("select null and false, null or true, not null, null and true", "f|t|-|-"),
    ("select 1 in (2, null), 1 in (1, null), 1 not in (2, 3)", "-|t|t"),
    ("select 5 between 1 and 5, 5 not between 6 and 7", "t|t"),
    ("select 'abc' like 'a%', 'ABC' ilike '_b_', 'a' not like 'b', 'a_c' like 'a\\_c'", "t|t|t|t"),
    ("select 'a' || 1 || null, 'a' || 'b'", "-|ab"),
    ("select coalesce(null, 'x'), nullif(1, 1), greatest(1, 3, 2), least(2, null, 1)", "x|-|3|1"),
    ("select case when 1 = 2 then 'a' else 'b' end", "b"),
    ("select case 2 when 1 then 'one' when 2 then 'two' end", "two"),
    ("select '0/3000000'::pg_lsn - '0/2000000', '0/10'::pg_lsn + 16", "16777216|0/20"),
    ("select pg_wal_lsn_diff('0/10', '0/20')", "-16"),
    ("select pg_lsn('0/0')", "0/0"),
    ("values (1, 'a')", "1|a"),
    (
        "select sum(column1), max(b) from (values (1, 'x'), (2.5, null), (null, 'y')) v (column1, b)",
        "3.5|y",
    ),
    (
        "select format_type('3220'::pg_catalog.oid, -1), format_type(1184, null), \
         format_type(0, 0), format_type(99999, -1), format_type(null, 1)",
        "pg_lsn|timestamp with time zone|-|???|-",
    ),
    ("select 1::text || 'x', '12'::int + 1, 2.5::int, 2.5::float8::int, true::int", "1x|13|3|2|1"),
    ("select (1.239)::numeric(10, 2), round(1.25, 1), round(2.5), abs(-3)", "1.24|1.3|3|3"),
    ("select interval '1 day 2 hours' + interval '30 min'", "1 day 02:30:00"),
    ("select extract(epoch from interval '1.5 s')", "1.500000"),
    (
        "select upper('a'), length('h\u{e9}'), substr('hello', 2, 2), trim(both 'x' from 'xax')",
        "A|2|el|a",
    ),
    ("select 1 is null, null is not null, true is not false, null is unknown", "f|f|t|t"),
    ("select 1 is distinct from null, null is not distinct from null", "t|t"),
    ("select exists (select 1 where false), (select 2), 3 in (select 3)", "f|2|t"),
    (
        "select concat('a', null, 1), replace('aba', 'a', 'x'), split_part('a.b', '.', 2)",
        "a1|xbx|b",
    ),
    ("select pg_size_pretty(1048576::bigint), 1e3::int, .5, 1e-1", "1024 kB|1000|0.5|0.1"),
    (
        "select 9223372036854775808, -9223372036854775807, - -1",
        "9223372036854775808|-9223372036854775807|1",
    ),
    ("select 'true'::bool, 1.5::float8 / 2, 1 = 1.0, '1' = 1", "t|0.75|t|t"),
    (
        "select 1 / 3.0, 2 / 3.0, 16777216 / 1048576.0, 123456789 / 1024.0, 0 / 5.0",
        "0.33333333333333333333|0.66666666666666666667|16.0000000000000000|120563.270507812500|0.00000000000000000000",
    ),
    (
        "select 18446744073709551615 / 3, 0.5 / 0.25, -1 / 3.0, 1.10 * 2.5, 1.5 - 3",
        "6148914691236517205|2.0000000000000000|-0.33333333333333333333|2.750|-1.5",
    ),
    (
        "select round(2.5), round(-2.5), round(155, -1), round(1.005, 2), floor(-1.5), ceil(-1.5), trunc(1.9)",
        "3|-3|160|1.01|-2|-1|1",
    ),
    (
        "select 1e15::float8, 1e14::float8, 0.0001::float8, 1.25e-5::float8, 0.1::float8::numeric",
        "1e+15|100000000000000|0.0001|1.25e-05|0.1",
    ),
    (
        "select interval '14 months 1 day', interval '-1 days 1 sec', interval '100 hours', interval '1.5 days'",
        "1 year 2 mons 1 day|-1 days +00:00:01|100:00:00|1 day 12:00:00",
    ),
    (
        "select interval '90 s' * 2, interval '1 h' / 3, interval '1 day' > interval '23 h'",
        "00:03:00|00:20:00|t",
    ),
    (
        "select extract(epoch from interval '1 year 1 mon'), extract(epoch from '2000-01-01 00:00:00+00'::timestamptz)",
        "34149600.000000|946684800.000000",
    ),
    (
        "select '2026-10-23 23:41:12.5+00'::timestamptz - '2026-10-20'::timestamptz, '2024-01-31'::timestamptz + interval '1 month'",
        "3 days 23:41:12.5|2024-02-29 00:00:00+00",
    ),
    (
        "select pg_size_pretty(10239::bigint), pg_size_pretty(10240::bigint), pg_size_pretty(-10240::bigint), pg_size_pretty(1000000000000), pg_size_pretty(16777216.0)",
        "10239 bytes|10 kB|-10 kB|931 GB|16 MB",
    ),
    (
        "select substr('hello', -1, 3), substring('hello' from 2 for 2), position('l' in 'hello'), btrim('  a '), ltrim('xxa', 'x')",
        "h|el|3|a|a",
    ),
    (
        "select '10.0.0.1'::inet::text, true::text, 'yes'::bool, 'of'::bool, 1::numeric(5,2)",
        "10.0.0.1/32|true|t|f|1.00",
    ),
    ("select 1 = any_value from (select 1 as any_value) x", "t"),
    (
        "select array_to_string(array_agg(x.t), ','), array_agg(x.t) from (select 'a b'::text as t) x",
        "a b|{\"a b\"}",
    ),
    (
        "select array_length(array_agg(x.t), 1), array_length(array_agg(x.t), 2), array_length(null::text[], 1) from (select 'a b'::text as t) x",
        "1|-|-",
    ),
    (
        "select encode_me, sum(n), avg(n) from (select 'k' as encode_me, 7 as n) x group by encode_me",
        "k|7|7.0000000000000000",
    ),
];

#[test]
fn expressions_have_the_values_of_postgres() {
    for (sql, expected) in EXPRESSIONS {
        assert_eq!(value(sql), *expected, "{sql}");
    }
}

#[test]
fn columns_have_the_names_and_types_of_postgres() {
    for (sql, expected) in [
        ("select 1, 'a', null", "T ?column?:23 ?column?:25 ?column?:25"),
        (
            "select 1::bigint, now()::text, true, '0/0'::pg_lsn",
            "T int8:20 now:25 ?column?:16 pg_lsn:3220",
        ),
        (
            "select count(*), sum(pid), avg(pid), max(sent_lsn) from pg_stat_replication",
            "T count:20 sum:20 avg:1700 max:3220",
        ),
        (
            "select case when true then 1 else 2 end, case 1 when 1 then 2 else abs(1) end, coalesce(1)",
            "T case:23 abs:23 coalesce:23",
        ),
        (
            "select current_user, session_user, current_schema, current_database()",
            "T current_user:19 session_user:19 current_schema:19 current_database:19",
        ),
        (
            "select extract(epoch from now()) x, pg_wal_lsn_diff('0/0', '0/0')",
            "T x:1700 pg_wal_lsn_diff:1700",
        ),
        ("select r.pid \"P\" from pg_catalog.pg_stat_replication as r limit 0", "T P:23"),
    ] {
        assert_eq!(answer(sql)[0], expected, "{sql}");
    }
}

#[test]
fn views_filter_group_order_and_limit() {
    for (sql, expected) in [
        ("select application_name from pg_stat_replication order by 1", "a b c"),
        (
            "select application_name n from pg_stat_replication order by n desc limit 2 offset 1",
            "b a",
        ),
        (
            "select application_name from pg_stat_replication where state = 'streaming' order by sent_lsn",
            "a b",
        ),
        (
            "select state, count(*) from pg_stat_replication group by state order by count(*) desc",
            "streaming|2 catchup|1",
        ),
        ("select state from pg_stat_replication group by 1 having count(*) > 1", "streaming"),
        (
            "select string_agg(application_name, ',' order by application_name desc) from pg_stat_replication",
            "c,b,a",
        ),
        (
            "select count(*) filter (where state = 'catchup'), count(distinct state), count(replay_lsn) from pg_stat_replication",
            "1|2|0",
        ),
        (
            "select sum(pid), min(pid), max(pid), round(avg(pid), 1), bool_and(pid > 11) from pg_stat_replication",
            "36|11|13|12.0|f",
        ),
        ("select count(*), max(pid) from pg_stat_replication where false", "0|-"),
        ("select distinct state from pg_stat_replication order by state", "catchup streaming"),
        (
            "select write_lag, flush_lag, replay_lag from pg_stat_replication limit 1",
            "00:00:00.000123|00:00:01.5|-",
        ),
        (
            "select client_addr, client_port, sync_state, sync_priority from pg_stat_replication limit 1",
            "127.0.0.1|40000|async|0",
        ),
        ("select max(x.p) from (select pid as p from pg_stat_replication) x", "13"),
        (
            "with s as (select * from pg_stat_replication) select count(*) from s where s.pid > 11",
            "2",
        ),
        (
            "select slot_name, slot_type, active, active_pid, wal_status from pg_replication_slots",
            "s1|physical|t|12|reserved",
        ),
        (
            "select status, sender_host, sender_port, conninfo from pg_stat_wal_receiver",
            "streaming|primary|5432|host=primary",
        ),
        ("select backend_type from pg_stat_activity where pid = pg_backend_pid()", "client"),
        (
            "select name from pg_settings where name in ('port', 'DateStyle') order by name desc",
            "port DateStyle",
        ),
        (
            "select replay_lsn, pid from pg_stat_replication order by replay_lsn nulls first, pid desc limit 1",
            "-|13",
        ),
        ("select datname from pg_database", "postgres"),
        // What psql asks a server since 17.
        ("select d.datlocale, d.daticurules from pg_catalog.pg_database d", "-|-"),
        ("select s.failover, synced from pg_replication_slots s where not failover", "f|f"),
    ] {
        let lines = answer(sql);
        let rows = lines[1..lines.len() - 1].join(" ");
        assert!(rows.starts_with(expected), "{sql}: {lines:?}");
        assert!(expected == "client" || rows == expected, "{sql}: {lines:?}");
    }
}

#[test]
fn monitoring_queries_get_their_numbers() {
    let lag = "select case when not pg_is_in_recovery() then 0 \
        when pg_last_wal_receive_lsn () = pg_last_wal_replay_lsn () then 0 \
        else greatest (0, extract(epoch from (now() - pg_last_xact_replay_timestamp()))) end as lag, \
        case when pg_is_in_recovery() then 1 else 0 end as is_replica";
    assert_eq!(value(lag), "0|1");
    let exporter = "select *, (case pg_is_in_recovery() when 't' then pg_last_wal_receive_lsn() \
        else pg_current_wal_lsn() end) as pg_current_wal_lsn, \
        (case pg_is_in_recovery() when 't' then pg_wal_lsn_diff(pg_last_wal_receive_lsn(), \
        pg_lsn('0/0'))::float else pg_wal_lsn_diff(pg_current_wal_lsn(), pg_lsn('0/0'))::float end) \
        as pg_current_wal_lsn_bytes from pg_stat_replication limit 1";
    assert!(value(exporter).ends_with("|0/3000100|50331904"));
    let slots = "select slot_name, case when pg_is_in_recovery() then pg_last_wal_receive_lsn() - '0/0' \
        else pg_current_wal_lsn() - '0/0' end as current_wal_lsn, \
        coalesce(confirmed_flush_lsn, '0/0') - '0/0' as confirmed from pg_replication_slots";
    assert_eq!(value(slots), "s1|50331904|0");
    let mut receiver = "select (receive_start_lsn - '0/0') % (2^52)::bigint as x, ".to_owned();
    receiver += "trim(both '''' from conninfo) from pg_stat_wal_receiver";
    assert_eq!(value(&receiver), "33554432|host=primary");
    let pgwatch = "select /* pgwatch_generated */ (extract(epoch from now()) * 1e9)::int8 > 0, \
        concat(coalesce(client_addr::text, client_hostname), '_', client_port::text) as tag_client_info, \
        coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() \
        else pg_current_wal_lsn() end, write_lsn)::int8, 0) as write_lag_b from pg_stat_replication limit 1";
    assert_eq!(value(pgwatch), "t|127.0.0.1/32_40000|0");
}

#[test]
fn wal_control_functions_know_recovery() {
    for function in ["pg_current_wal_lsn()", "pg_walfile_name('0/1')", "pg_current_wal_flush_lsn()"]
    {
        assert_eq!(error(&format!("select {function}")), "ERROR 55000 recovery is in progress");
    }
    let primary = |sql: &str| answer_of(snapshot(false), sql)[1].clone();
    assert_eq!(
        primary(
            "select pg_current_wal_lsn(), pg_current_wal_flush_lsn(), pg_current_wal_insert_lsn()"
        ),
        "0/3000180|0/3000100|0/3000200"
    );
    // Past the header of the page that the next record begins.
    for (end, insert) in [(0x400_0000, "0/4000028"), (0x400_2000, "0/4002018")] {
        let mut snapshot = snapshot(false);
        snapshot.positions.as_mut().unwrap().received_lsn = Lsn(end);
        assert_eq!(answer_of(snapshot, "select pg_current_wal_insert_lsn()")[1], insert);
    }
    assert_eq!(
        primary("select pg_walfile_name('0/3000000'), pg_walfile_name('0/3000001')"),
        "000000010000000000000002|000000010000000000000003"
    );
    assert_eq!(primary("select pg_last_wal_receive_lsn(), pg_is_in_recovery()"), "-|f");
    let mut fresh = snapshot(true);
    (fresh.positions, fresh.identity) = (None, None);
    assert_eq!(answer_of(fresh, "select pg_last_wal_receive_lsn()")[1], "-");
}

#[test]
fn errors_are_those_of_postgres() {
    for (sql, expected) in [
        ("select nope from pg_stat_replication", "ERROR 42703 column \"nope\" does not exist @8"),
        (
            "select x.pid from pg_stat_replication",
            "ERROR 42P01 missing FROM-clause entry for table \"x\" @8",
        ),
        ("select * from nope", "ERROR 42P01 relation \"nope\" does not exist @15"),
        ("select * from a.b", "ERROR 42P01 relation \"a.b\" does not exist @15"),
        ("select nope(1, 'a')", "ERROR 42883 function nope(integer, unknown) does not exist @8"),
        ("select true + 1", "ERROR 42883 operator does not exist: boolean + integer"),
        ("select 'x'::pg_lsn", "ERROR 22P02 invalid input syntax for type pg_lsn: \"x\""),
        ("select 1 / 0", "ERROR 22012 division by zero"),
        ("select 2147483647 + 1", "ERROR 22003 integer out of range"),
        (
            "select pid, count(*) from pg_stat_replication",
            "ERROR 42803 column \"pg_stat_replication.pid\" must appear in the GROUP BY clause or be used in an aggregate function",
        ),
        (
            "select 1 from pg_stat_replication where count(*) > 1",
            "ERROR 42803 aggregate functions are not allowed in WHERE @41",
        ),
        (
            "select sum(count(*)) from pg_stat_replication",
            "ERROR 42803 aggregate function calls cannot be nested @12",
        ),
        ("select 1 order by 2", "ERROR 42P10 ORDER BY position 2 is not in select list"),
        ("select 1 limit -1", "ERROR 2201W LIMIT must not be negative"),
        (
            "select (select pid from pg_stat_replication)",
            "ERROR 21000 more than one row returned by a subquery used as an expression",
        ),
        ("select '0/0'::pg_lsn::int", "ERROR 42846 cannot cast type pg_lsn to integer"),
        (
            "select 1 where 1",
            "ERROR 42804 argument of WHERE must be type boolean, not type integer",
        ),
        (
            "select current_setting('nope')",
            "ERROR 42704 unrecognized configuration parameter \"nope\"",
        ),
        ("show nope", "ERROR 42704 unrecognized configuration parameter \"nope\""),
        ("set nope = 1", "ERROR 42704 unrecognized configuration parameter \"nope\""),
        ("set wal_keep_size = 1", "ERROR 55P02 parameter \"wal_keep_size\" cannot be changed now"),
        (
            "set port = 1",
            "ERROR 55P02 parameter \"port\" cannot be changed without restarting the server",
        ),
        ("set server_version = 1", "ERROR 55P02 parameter \"server_version\" cannot be changed"),
        ("selec 1", "ERROR 42601 syntax error at or near \"selec\" @1"),
        ("create table t (x int)", "ERROR 0A000 command CREATE is not supported by walhub"),
        ("select 1 union select 2", "ERROR 0A000 UNION is not supported by walhub"),
        (
            "select * from pg_settings a full join pg_settings b on true",
            "ERROR 0A000 this kind of join is not supported by walhub",
        ),
        (
            "select * from pg_settings a join pg_settings b using (name)",
            "ERROR 0A000 a join without ON is not supported by walhub",
        ),
        (
            "select * from pg_settings, pg_settings",
            "ERROR 42712 table name \"pg_settings\" specified more than once",
        ),
        ("select $1", "ERROR 42P02 there is no parameter $1"),
        ("values (1), (2, 3)", "ERROR 42601 VALUES lists must all be the same length"),
        ("values (1), (true)", "ERROR 42804 VALUES types integer and boolean cannot be matched"),
        ("values (count(*))", "ERROR 42803 aggregate functions are not allowed in VALUES @9"),
    ] {
        assert_eq!(error(sql), expected, "{sql}");
    }
}

#[test]
fn no_expression_runs_out_of_stack_or_time() {
    let deep = format!("select 1{}", " + 1".repeat(1900));
    assert_eq!(error(&deep), "ERROR 54001 stack depth limit exceeded");
    // Each level runs the one below it twice.
    let mut bomb = "with x0 as (select 1 as n)".to_owned();
    for level in 1..40 {
        let below = level - 1;
        bomb += &format!(
            ", x{level} as (select (select n from x{below}) + (select n from x{below}) as n)"
        );
    }
    assert_eq!(error(&format!("{bomb} select n from x30")), "ERROR 54001 statement too complex");
    let mut wide = "select 'abcdefgh' as t".to_owned();
    for _ in 0..25 {
        wide = format!("select t || t || t || t as t from ({wide}) x");
    }
    assert!(error(&wide).starts_with("ERROR 54"), "{}", error(&wide));
}
