//! Functions that make and drop replication slots.
//!
//! They answer with the text of PostgreSQL's record (slot_name name, lsn pg_lsn).
//!
//! PostgreSQL: src/backend/replication/slotfuncs.c.

use super::super::slot_calls::{self, SlotCall};
use super::{HostFunction, function};
use walhub_sql::value::Value::{self, Text as T};
use walhub_sql::value::types::Type::{Bool, Name, Text, Void};

/// In lower case.
pub(super) static FUNCTIONS: &[HostFunction] = &[
    function(
        "pg_create_logical_replication_slot",
        &[Name, Name],
        Text,
        call!(ctx, _, [T(name), T(plugin)] => slot_calls::call(ctx, SlotCall::CreateLogical { name: name.clone(), plugin: plugin.clone(), two_phase: false }, false)),
    ),
    function(
        "pg_create_logical_replication_slot",
        &[Name, Name, Bool],
        Text,
        call!(ctx, _, [T(name), T(plugin), Value::Bool(temporary)] => slot_calls::call(ctx, SlotCall::CreateLogical { name: name.clone(), plugin: plugin.clone(), two_phase: false }, *temporary)),
    ),
    function(
        "pg_create_logical_replication_slot",
        &[Name, Name, Bool, Bool],
        Text,
        call!(ctx, _, [T(name), T(plugin), Value::Bool(temporary), Value::Bool(two_phase)] => slot_calls::call(ctx, SlotCall::CreateLogical { name: name.clone(), plugin: plugin.clone(), two_phase: *two_phase }, *temporary)),
    ),
    function(
        "pg_create_physical_replication_slot",
        &[Name],
        Text,
        call!(ctx, _, [T(name)] => slot_calls::call(ctx, SlotCall::CreatePhysical { name: name.clone(), reserve_wal: false }, false)),
    ),
    function(
        "pg_create_physical_replication_slot",
        &[Name, Bool],
        Text,
        call!(ctx, _, [T(name), Value::Bool(reserve_wal)] => slot_calls::call(ctx, SlotCall::CreatePhysical { name: name.clone(), reserve_wal: *reserve_wal }, false)),
    ),
    function(
        "pg_create_physical_replication_slot",
        &[Name, Bool, Bool],
        Text,
        call!(ctx, _, [T(name), Value::Bool(reserve_wal), Value::Bool(temporary)] => slot_calls::call(ctx, SlotCall::CreatePhysical { name: name.clone(), reserve_wal: *reserve_wal }, *temporary)),
    ),
    function(
        "pg_drop_replication_slot",
        &[Name],
        Void,
        call!(ctx, _, [T(name)] => slot_calls::call(ctx, SlotCall::Drop { name: name.clone() }, false)),
    ),
];
