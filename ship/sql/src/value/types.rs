//! The types of SQL that the console knows, and which turn into which.
//!
//! PostgreSQL: src/include/catalog/pg_type.dat, pg_cast.dat.

use walhub_proto::wire::backend::ColumnType;

/// A type of SQL.
#[allow(missing_docs, reason = "each is the type of that name in pg_type")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Type {
    Bool,
    Bytea,
    /// The one-byte type `"char"`.
    Char,
    Name,
    Int2,
    Int4,
    Int8,
    Text,
    Oid,
    Xid,
    Float8,
    Inet,
    TextArray,
    OidArray,
    TimestampTz,
    Interval,
    Numeric,
    Lsn,
    Void,
    /// A literal or a parameter whose type the context has not told yet.
    Unknown,
}

struct Row {
    ty: Type,
    oid: u32,
    len: i16,
    name: &'static str,
    sql_name: &'static str,
}

const fn row(ty: Type, oid: u32, len: i16, name: &'static str, sql_name: &'static str) -> Row {
    Row { ty, oid, len, name, sql_name }
}

/// In the order of the enum: `pg_type.oid`, `typlen`, `typname`, `format_type`.
const ROWS: [Row; 20] = [
    row(Type::Bool, 16, 1, "bool", "boolean"),
    row(Type::Bytea, 17, -1, "bytea", "bytea"),
    row(Type::Char, 18, 1, "char", "\"char\""),
    row(Type::Name, 19, 64, "name", "name"),
    row(Type::Int2, 21, 2, "int2", "smallint"),
    row(Type::Int4, 23, 4, "int4", "integer"),
    row(Type::Int8, 20, 8, "int8", "bigint"),
    row(Type::Text, 25, -1, "text", "text"),
    row(Type::Oid, 26, 4, "oid", "oid"),
    row(Type::Xid, 28, 4, "xid", "xid"),
    row(Type::Float8, 701, 8, "float8", "double precision"),
    row(Type::Inet, 869, -1, "inet", "inet"),
    row(Type::TextArray, 1009, -1, "_text", "text[]"),
    row(Type::OidArray, 1028, -1, "_oid", "oid[]"),
    row(Type::TimestampTz, 1184, 8, "timestamptz", "timestamp with time zone"),
    row(Type::Interval, 1186, 16, "interval", "interval"),
    row(Type::Numeric, 1700, -1, "numeric", "numeric"),
    row(Type::Lsn, 3220, 8, "pg_lsn", "pg_lsn"),
    row(Type::Void, 2278, 4, "void", "void"),
    row(Type::Unknown, 705, -2, "unknown", "unknown"),
];

impl Type {
    fn row(self) -> &'static Row {
        // Found always: a test walks every type.
        ROWS.iter().find(|row| row.ty == self).unwrap_or(&ROWS[ROWS.len() - 1])
    }

    /// Its `pg_type.oid` and `typlen`, as a RowDescription has them.
    pub fn column_type(self) -> ColumnType {
        ColumnType { oid: self.row().oid, len: self.row().len }
    }

    /// `pg_type.oid`.
    pub fn oid(self) -> u32 {
        self.row().oid
    }

    /// `pg_type.typname`, which names the column of a bare cast.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// As error messages name it. PostgreSQL: `format_type_be`.
    pub fn sql_name(self) -> &'static str {
        self.row().sql_name
    }

    /// The name in SQL of the type of that number. PostgreSQL: `format_type_extended`.
    pub fn format(oid: i64) -> &'static str {
        match u32::try_from(oid).ok().and_then(Self::of_oid) {
            Some(ty) => ty.sql_name(),
            None if oid == 0 => "-",
            None => "???",
        }
    }

    /// The type of that number.
    fn of_oid(oid: u32) -> Option<Self> {
        ROWS.iter().find(|row| row.oid == oid).map(|row| row.ty)
    }

    /// The type that a client declared for a parameter; `None` for one that is not known here.
    pub fn from_oid(oid: u32) -> Option<Self> {
        match oid {
            0 | 705 => Some(Self::Unknown),
            // bpchar and varchar take part as text, float4 as float8.
            1042 | 1043 => Some(Self::Text),
            700 => Some(Self::Float8),
            2278 => None,
            _ => Self::of_oid(oid),
        }
    }

    /// The type of that name in SQL, any of its names, in lower case.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix("pg_catalog.").unwrap_or(name);
        Some(match name {
            "int" => Self::Int4,
            "decimal" | "dec" => Self::Numeric,
            "varchar" | "character varying" => Self::Text,
            "float" | "double" => Self::Float8,
            "char" | "unknown" | "void" => return None,
            _ => ROWS.iter().find(|row| row.name == name || row.sql_name == name)?.ty,
        })
    }

    /// Whether it is one of the number types.
    pub const fn is_number(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8 | Self::Float8 | Self::Numeric)
    }

    /// Whether it is one of the string types.
    pub const fn is_string(self) -> bool {
        matches!(self, Self::Text | Self::Name | Self::Char)
    }

    /// Whether values of it can be ordered.
    pub const fn is_ordered(self) -> bool {
        !matches!(self, Self::Void | Self::Xid)
    }

    /// What an implicit cast to `target` costs a candidate; `None` when there is none.
    ///
    /// Among numbers, float8 is PostgreSQL's preferred type, so it is cheaper to reach from an
    /// integer than numeric is. PostgreSQL: `func_select_candidate`.
    pub fn implicit_cost(self, target: Self) -> Option<u32> {
        let cost = match (self, target) {
            (Self::Int2, Self::Int4) | (Self::Int4, Self::Int8) => 1,
            (Self::Int2, Self::Int8) => 2,
            (Self::Int2 | Self::Int4 | Self::Int8, Self::Float8) => 3,
            (Self::Numeric, Self::Float8) => 2,
            (Self::Int2 | Self::Int4 | Self::Int8, Self::Numeric) => 4,
            (Self::Int2 | Self::Int4 | Self::Int8, Self::Oid) => 5,
            (Self::Oid, Self::Int8) => 6,
            (Self::Name | Self::Char, Self::Text) => 1,
            (Self::Unknown, Self::Text) => 1,
            (Self::Unknown, _) => 2,
            _ => {
                return (self == target).then_some(0);
            }
        };
        Some(cost)
    }

    /// Whether CAST takes values of this type to `target`.
    pub fn casts_to(self, target: Self) -> bool {
        if self.implicit_cost(target).is_some() {
            return true;
        }
        match (self, target) {
            (Self::Void, _) | (_, Self::Void | Self::Unknown) => false,
            (_, Self::Text | Self::Name) => true,
            (Self::Text | Self::Name, _) => true,
            (Self::Bool, Self::Int4) | (Self::Int4, Self::Bool) => true,
            (Self::Oid, Self::Int4 | Self::Int8) => true,
            (left, right) => left.is_number() && right.is_number(),
        }
    }

    /// The type that both sides of a CASE, an IN list or a UNION become.
    ///
    /// PostgreSQL: `select_common_type`.
    pub fn common(self, other: Self) -> Option<Self> {
        match (self, other) {
            (left, right) if left == right => Some(left),
            (Self::Unknown, known) | (known, Self::Unknown) => Some(known),
            (left, right) if left.is_number() && right.is_number() => {
                let rank = |ty: Self| match ty {
                    Self::Int2 => 0,
                    Self::Int4 => 1,
                    Self::Int8 => 2,
                    Self::Numeric => 3,
                    _ => 4,
                };
                Some(if rank(left) >= rank(right) { left } else { right })
            }
            (left, right) if left.is_string() && right.is_string() => Some(Self::Text),
            (left, right) if left.implicit_cost(right).is_some() => Some(right),
            (left, right) if right.implicit_cost(left).is_some() => Some(left),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_row_and_comes_back_from_its_names() {
        for row in &ROWS {
            assert_eq!(row.ty.oid(), row.oid);
            if !matches!(row.ty, Type::Void | Type::Unknown | Type::Char) {
                assert_eq!(Type::from_name(row.name), Some(row.ty));
                assert_eq!(Type::from_name(row.sql_name), Some(row.ty));
                assert_eq!(Type::from_oid(row.oid), Some(row.ty));
            }
        }
    }

    #[test]
    fn common_types() {
        assert_eq!(Type::Int4.common(Type::Int8), Some(Type::Int8));
        assert_eq!(Type::Unknown.common(Type::Lsn), Some(Type::Lsn));
        assert_eq!(Type::Name.common(Type::Text), Some(Type::Text));
        assert_eq!(Type::Lsn.common(Type::Int4), None);
    }
}
