//! What clients do: each change hits a heap table and its lsm_s3 twin alike, and what is expected of both.

use std::ops::Range;

use rand::Rng;

use super::client::{Session, Trouble};
use super::state::{DIM, IDS_PER_CLIENT, Own, Row, Rows, State};

/// Ids that a client uses, again and again: old index entries and new ones of one key live side by side.
const IDS: Range<i64> = 0..600;
/// Rows from which a client rather deletes.
const MANY: usize = 450;

/// The columns of all tables.
pub(super) const COLUMNS: &str = "(id bigint PRIMARY KEY, name text UNIQUE, n bigint, e lsmvector(8))";

/// A new row for `id`.
fn row(rng: &mut impl Rng, owner: usize, id: i64) -> Row {
    // Few names for each id: unique keys come back too.
    let name = format!("c{owner}-{id}-{}", rng.random_range(0..3));
    let mut vector = [0; DIM];
    vector.iter_mut().for_each(|number| *number = rng.random_range(-99..100));
    Row { name, n: rng.random_range(0..1000), vector }
}

/// Which twins a change is for.
struct Twins {
    heap: String,
    ours: String,
    first: i64,
}

impl Twins {
    fn shared(session: &Session<'_>) -> Twins {
        Twins { heap: "h".into(), ours: "l".into(), first: session.number as i64 * IDS_PER_CLIENT }
    }

    fn own(session: &Session<'_>) -> Twins {
        let number = session.number;
        Twins { heap: format!("own_h_{number}"), ours: format!("own_l_{number}"), first: 0 }
    }

    /// Runs `sql` with each table's name in the place of `@`; both must touch as many rows as expected.
    fn both(&self, session: &mut Session<'_>, sql: &str, expected: Option<usize>) -> Result<(), Trouble> {
        let mut names = [&self.heap, &self.ours];
        if session.rng.random_bool(0.5) {
            names.reverse();
        }
        for name in names {
            let sql = sql.replace('@', name);
            let touched = session.execute(&sql)?;
            if let Some(expected) = expected.filter(|expected| *expected as u64 != touched) {
                let sql: String = sql.chars().take(120).collect();
                return Err(Trouble::Failure(format!("{sql}: touched {touched} rows, expected {expected}")));
            }
        }
        Ok(())
    }
}

/// One change of a transaction.
pub(super) fn change(session: &mut Session<'_>, state: &mut State) -> Result<(), Trouble> {
    if session.rng.random_bool(0.15) {
        return change_own(session, state);
    }
    let twins = Twins::shared(session);
    change_rows(session, &twins, &mut state.shared)
}

fn change_rows(session: &mut Session<'_>, twins: &Twins, rows: &mut Rows) -> Result<(), Trouble> {
    match session.rng.random_range(0..100) {
        0..10 if !rows.is_empty() => violate(session, twins, rows),
        10..35 if !rows.is_empty() => update(session, twins, rows),
        35..50 if !rows.is_empty() => replace(session, twins, rows),
        50..60 if !rows.is_empty() => delete(session, twins, rows),
        _ if rows.len() > MANY => delete(session, twins, rows),
        60..70 => insert(session, twins, rows, 150, true),
        _ => insert(session, twins, rows, 12, false),
    }
}

fn some_range(session: &mut Session<'_>, twins: &Twins, widest: i64) -> (i64, i64) {
    let from = twins.first + session.rng.random_range(IDS);
    (from, from + session.rng.random_range(1..widest))
}

fn insert(session: &mut Session<'_>, twins: &Twins, rows: &mut Rows, most: usize, copy: bool) -> Result<(), Trouble> {
    let mut fresh = Rows::new();
    for _ in 0..session.rng.random_range(1..=most) {
        let id = twins.first + session.rng.random_range(IDS);
        if !rows.contains_key(&id) {
            let owner = session.number;
            fresh.insert(id, row(&mut session.rng, owner, id));
        }
    }
    if fresh.is_empty() {
        return Ok(());
    }
    if copy {
        let lines: String = fresh.iter().map(|(id, row)| row.copied(*id)).collect();
        for table in [&twins.heap, &twins.ours] {
            session.copy(table, &lines)?;
        }
    } else {
        let values: Vec<String> = fresh.iter().map(|(id, row)| row.values(*id)).collect();
        twins.both(session, &format!("INSERT INTO @ VALUES {}", values.join(", ")), Some(fresh.len()))?;
    }
    rows.extend(fresh);
    Ok(())
}

/// Changes columns without an index of their own.
fn update(session: &mut Session<'_>, twins: &Twins, rows: &mut Rows) -> Result<(), Trouble> {
    let (from, to) = some_range(session, twins, 60);
    let touched = rows.range(from..to).count();
    twins.both(session, &format!("UPDATE @ SET n = n + 1 WHERE id >= {from} AND id < {to}"), Some(touched))?;
    rows.range_mut(from..to).for_each(|(_, row)| row.n += 1);
    Ok(())
}

/// Changes every column of one row, its id too if another is free.
fn replace(session: &mut Session<'_>, twins: &Twins, rows: &mut Rows) -> Result<(), Trouble> {
    let (from, _) = some_range(session, twins, 2);
    let Some(id) = rows.range(from..).chain(rows.range(..from)).map(|(id, _)| *id).next() else { return Ok(()) };
    let to = twins.first + session.rng.random_range(IDS);
    let to = if rows.contains_key(&to) { id } else { to };
    let owner = session.number;
    let new = row(&mut session.rng, owner, to);
    // The new row could carry the name that the old one has: that is no conflict.
    let sql = format!("UPDATE @ SET (id, name, n, e) = ROW {} WHERE id = {id}", new.values(to));
    twins.both(session, &sql, Some(1))?;
    rows.remove(&id);
    rows.insert(to, new);
    Ok(())
}

fn delete(session: &mut Session<'_>, twins: &Twins, rows: &mut Rows) -> Result<(), Trouble> {
    let (from, to) = some_range(session, twins, 120);
    let touched: Vec<i64> = rows.range(from..to).map(|(id, _)| *id).collect();
    twins.both(session, &format!("DELETE FROM @ WHERE id >= {from} AND id < {to}"), Some(touched.len()))?;
    touched.iter().for_each(|id| drop(rows.remove(id)));
    Ok(())
}

/// A statement that fails in its middle, under a savepoint.
fn violate(session: &mut Session<'_>, twins: &Twins, rows: &Rows) -> Result<(), Trouble> {
    let Some((taken, _)) = rows.iter().nth(session.rng.random_range(0..rows.len())) else { return Ok(()) };
    let free = twins.first + IDS.end + 1;
    let owner = session.number;
    let values: Vec<String> =
        [free, *taken, free + 1].into_iter().map(|id| row(&mut session.rng, owner, id).values(id)).collect();
    for table in [&twins.heap, &twins.ours] {
        session.execute("SAVEPOINT attempt")?;
        session.fails(&format!("INSERT INTO {table} VALUES {}", values.join(", ")), "23505")?;
        session.execute("ROLLBACK TO attempt")?;
    }
    Ok(())
}

/// Makes, changes and drops tables and indexes of the client's own.
fn change_own(session: &mut Session<'_>, state: &mut State) -> Result<(), Trouble> {
    let twins = Twins::own(session);
    let (heap, ours) = (&twins.heap, &twins.ours);
    let Some(own) = &mut state.own else {
        session.execute(&format!("CREATE TABLE {heap} {COLUMNS} USING heap"))?;
        session.execute(&format!("CREATE TABLE {ours} {COLUMNS} USING lsm_s3"))?;
        state.own = Some(Own::default());
        return Ok(());
    };
    match session.rng.random_range(0..100) {
        0..10 => {
            session.execute(&format!("DROP TABLE {heap}, {ours}"))?;
            state.own = None;
        }
        10..20 => {
            session.execute(&format!("TRUNCATE {heap}, {ours}"))?;
            own.rows.clear();
        }
        20..40 if own.indexed => {
            session.execute(&format!("DROP INDEX {heap}_e_idx, {ours}_e_idx"))?;
            own.indexed = false;
        }
        20..40 => {
            twins.both(session, "CREATE INDEX ON @ USING lsm_hnsw (e)", None)?;
            own.indexed = true;
        }
        _ => change_rows(session, &twins, &mut own.rows)?,
    }
    Ok(())
}

/// A transaction sees its own changes.
pub(super) fn look(session: &mut Session<'_>, state: &State) -> Result<(), Trouble> {
    let twins = Twins::shared(session);
    let (from, to) = (twins.first, twins.first + IDS_PER_CLIENT);
    let expected = format!("{} {}", state.shared.len(), state.shared.values().map(|row| row.n).sum::<i64>());
    for table in [&twins.heap, &twins.ours] {
        let sql =
            format!("SELECT count(*) || ' ' || coalesce(sum(n), 0) FROM {table} WHERE id >= {from} AND id < {to}");
        let found = session.value(&sql)?;
        if found != expected {
            return Err(Trouble::Failure(format!("{sql}: {found}, expected {expected}")));
        }
    }
    Ok(())
}

/// What changes nothing that can be seen.
pub(super) fn maintain(session: &mut Session<'_>, state: &State) -> Result<(), Trouble> {
    let twins =
        if state.own.is_some() && session.rng.random_bool(0.5) { Twins::own(session) } else { Twins::shared(session) };
    match session.rng.random_range(0..10) {
        0..4 => twins.both(session, "VACUUM @", None),
        4..7 => session.execute("SELECT lsm_s3_flush()").map(drop),
        7 => session.execute("CHECKPOINT").map(drop),
        8 => twins.both(session, "REINDEX TABLE @", None),
        _ => twins.both(session, "ANALYZE @", None),
    }
}
