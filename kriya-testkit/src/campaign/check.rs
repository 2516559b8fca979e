//! After a restart: what is there is what was acknowledged, in both twins, by every way to read it.

use std::collections::BTreeMap;

use postgres::{Client, SimpleQueryMessage};

use super::state::{IDS_PER_CLIENT, State, printed};

/// A way to read a whole table: settings, order, and what its plan must say.
struct Way {
    name: &'static str,
    index_scan: bool,
    order: &'static str,
    plan: &'static str,
}

const WAYS: [Way; 4] = [
    Way { name: "a sequential scan", index_scan: false, order: "", plan: "Seq Scan" },
    Way { name: "the primary key", index_scan: true, order: "ORDER BY id", plan: "_pkey" },
    Way { name: "the unique index", index_scan: true, order: "ORDER BY name", plan: "_name_key" },
    Way { name: "the vector index", index_scan: true, order: "ORDER BY e <-> '[1,2,3,4,5,6,7,8]'", plan: "_e_idx" },
];

/// The rows of a query as text, columns joined by `|`.
pub(super) fn rows(client: &mut Client, sql: &str) -> Result<Vec<String>, String> {
    let messages = client.simple_query(sql).map_err(|error| format!("{sql}: {}", told(&error)))?;
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.get(i).unwrap_or("")).collect::<Vec<_>>().join("|"))
        }
        _ => None,
    };
    Ok(messages.iter().filter_map(row).collect())
}

/// What an error says.
pub(super) fn told(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!(
            "{} ({}){}",
            db.message(),
            db.code().code(),
            db.detail().map(|d| format!(": {d}")).unwrap_or_default()
        ),
        None => error.to_string(),
    }
}

/// All rows of the twins `heap` and `ours`, sorted, if each way to read each of them gives the same.
fn read_twins(client: &mut Client, heap: &str, ours: &str, vector_index: bool) -> Result<Vec<String>, String> {
    let mut first: Option<(String, Vec<String>)> = None;
    for table in [heap, ours] {
        for way in WAYS.iter().filter(|way| vector_index || way.plan != "_e_idx") {
            let (seq, index) = if way.index_scan { ("off", "on") } else { ("on", "off") };
            rows(
                client,
                &format!(
                    "SET enable_seqscan = {seq}; SET enable_indexscan = {index}; SET enable_bitmapscan = off;
                     SET enable_sort = {seq}; SET enable_indexonlyscan = off; SET lsm_s3.ef_search = 10000"
                ),
            )?;
            let sql = format!("SELECT id, name, n, e FROM {table} {}", way.order);
            let plan = rows(client, &format!("EXPLAIN {sql}"))?.join("\n");
            if !plan.contains(way.plan) {
                return Err(format!("{table} cannot be read by {}: {plan}", way.name));
            }
            let mut found = rows(client, &sql)?;
            found.sort();
            let how = format!("{table} by {}", way.name);
            match &first {
                None => first = Some((how, found)),
                Some((other, expected)) => {
                    if let Some(difference) = difference(expected, &found) {
                        return Err(format!("{how} differs from {other}: {difference}"));
                    }
                }
            }
        }
    }
    Ok(first.map(|(_, rows)| rows).unwrap_or_default())
}

/// What is missing and what is there too often, in a few words; none if nothing is.
fn difference(expected: &[String], found: &[String]) -> Option<String> {
    if expected == found {
        return None;
    }
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    expected.iter().for_each(|row| *counts.entry(row).or_default() -= 1);
    found.iter().for_each(|row| *counts.entry(row).or_default() += 1);
    let some = |wanted: fn(&i64) -> bool| -> Vec<&str> {
        counts.iter().filter(|(_, count)| wanted(count)).map(|(row, _)| *row).collect()
    };
    let (missing, extra) = (some(|count| *count < 0), some(|count| *count > 0));
    let few = |rows: &[&str]| rows.iter().take(4).copied().collect::<Vec<_>>().join("; ");
    Some(format!("{} missing ({}), {} too many ({})", missing.len(), few(&missing), extra.len(), few(&extra)))
}

/// For each client, in order, which of the states that it may be in it is in.
///
/// # Errors
/// A sentence that says what was lost, what came back, or what differs between the twins.
pub(super) fn settle(client: &mut Client, candidates: &[Vec<State>]) -> Result<Vec<usize>, String> {
    let shared = read_twins(client, "h", "l", true)?;
    let mut by_owner: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for line in shared {
        let id: i64 =
            line.split('|').next().and_then(|id| id.parse().ok()).ok_or_else(|| format!("a row without id: {line}"))?;
        by_owner.entry(usize::try_from(id / IDS_PER_CLIENT).unwrap_or(usize::MAX)).or_default().push(line);
    }
    let mut chosen = Vec::new();
    for (owner, states) in candidates.iter().enumerate() {
        let found = by_owner.remove(&owner).unwrap_or_default();
        let own = own_tables(client, owner)?;
        let fits = |state: &State| {
            let same_own = match (&state.own, &own) {
                (None, None) => true,
                (Some(expected), Some((indexed, rows))) => {
                    expected.indexed == *indexed && printed(&expected.rows) == *rows
                }
                _ => false,
            };
            same_own && printed(&state.shared) == found
        };
        match states.iter().rposition(fits) {
            Some(which) => chosen.push(which),
            None => return Err(mismatch(owner, states, &found, own.as_ref())),
        }
    }
    match by_owner.first_key_value() {
        Some((owner, rows)) => Err(format!("{} rows of nobody: {owner}: {:?}", rows.len(), rows.first())),
        None => Ok(chosen),
    }
}

/// Whether a client's own tables have a vector index, and their rows; none if they do not exist.
fn own_tables(client: &mut Client, owner: usize) -> Result<Option<(bool, Vec<String>)>, String> {
    let (heap, ours) = (format!("own_h_{owner}"), format!("own_l_{owner}"));
    let exist = |name: &str| format!("SELECT count(*) FROM pg_class WHERE relname = '{name}'");
    let seen: Vec<String> = [heap.clone(), ours.clone(), format!("{heap}_e_idx"), format!("{ours}_e_idx")]
        .iter()
        .map(|name| rows(client, &exist(name)).map(|rows| rows.concat()))
        .collect::<Result<_, _>>()?;
    match seen.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["0", "0", "0", "0"] => Ok(None),
        ["1", "1", a, b] if a == b => Ok(Some((a == "1", read_twins(client, &heap, &ours, a == "1")?))),
        _ => Err(format!("of {heap}, {ours} and their vector indexes there are {seen:?}")),
    }
}

fn mismatch(owner: usize, states: &[State], found: &[String], own: Option<&(bool, Vec<String>)>) -> String {
    let mut said = format!("client {owner} is in none of the {} states that it may be in", states.len());
    for (number, state) in states.iter().enumerate().rev().take(3) {
        let difference = difference(&printed(&state.shared), found).unwrap_or_else(|| "none".into());
        said.push_str(&format!("\n  state {number}: shared rows: {difference}; own tables: "));
        said.push_str(&match (&state.own, own) {
            (None, None) => "none, as expected".into(),
            (Some(expected), Some((indexed, rows))) => format!(
                "index expected {} found {indexed}; {}",
                expected.indexed,
                self::difference(&printed(&expected.rows), rows).unwrap_or_else(|| "rows as expected".into())
            ),
            (expected, found) => format!("expected {}, found {}", expected.is_some(), found.is_some()),
        });
    }
    said
}
