//! An ordered scan through an lsm_hnsw index finds what a sequential scan finds: every row once, whatever its vector,
//! however often it was changed, whatever filter stands before it.

use crate::support::{postgres::Client, rows, run, server, value};

const METHODS: [&str; 2] = ["lsm_s3", "heap"];

/// A vector for each number, the same on every run: six fractions that have nothing to do with each other.
fn scattered(number: &str) -> String {
    let part = |step: f64| format!("({number} * {step}::float8 - floor({number} * {step}::float8))");
    let parts: Vec<String> = [2f64, 3., 5., 7., 11., 13.].iter().map(|prime| part(prime.sqrt())).collect();
    format!("ARRAY[{}]::real[]::lsmvector", parts.join(", "))
}

/// Rows of `SELECT id, distance FROM table WHERE filter ORDER BY distance`, by index or not.
fn ordered(
    client: &mut Client,
    index: bool,
    table: &str,
    filter: &str,
    distance: &str,
    limit: &str,
) -> Vec<(i64, f64)> {
    let sql = format!("SELECT id, {distance} FROM {table} WHERE {filter} ORDER BY {distance} {limit}");
    let (other, wanted) = if index { ("seqscan", "indexscan") } else { ("indexscan", "seqscan") };
    run(client, &format!("SET enable_{other} = off; SET enable_{wanted} = on; SET enable_bitmapscan = off"));
    run(client, &format!("SET enable_sort = {}", if index { "off" } else { "on" }));
    let plan = rows(client, &format!("EXPLAIN {sql}")).join("\n");
    assert_eq!(plan.contains("Order By:"), index, "{plan}");
    let parse = |row: String| {
        let (id, distance) = row.split_once('|').expect("two columns");
        (id.parse().expect("an id"), distance.parse().expect("a distance"))
    };
    rows(client, &sql).into_iter().map(parse).collect()
}

/// Rows that are nearer than one before them, by more than rounding.
fn late(found: &[(i64, f64)]) -> usize {
    let mut farthest = f64::NEG_INFINITY;
    let step_back = |(_, distance): &&(i64, f64)| {
        let late = *distance < farthest - 1e-5 * (1.0 + farthest.abs());
        farthest = farthest.max(*distance);
        late
    };
    found.iter().filter(step_back).count()
}

/// Compares the whole order, and its beginnings, with what a sequential scan says.
fn check(client: &mut Client, table: &str, filter: &str, distance: &str) {
    run(client, "SET lsm_s3.strict_order = off");
    let exact = ordered(client, false, table, filter, distance, "");
    let found = ordered(client, true, table, filter, distance, "");
    let ids = |rows: &[(i64, f64)]| {
        let mut ids: Vec<i64> = rows.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    };
    let what = format!("{table} WHERE {filter} ORDER BY {distance}");
    assert!(ids(&found) == ids(&exact), "{what}: {} rows, {} by a sequential scan", found.len(), exact.len());
    // No promise, but a search that looks ahead does better than that even in the worst of graphs.
    assert!(late(&found) * 20 <= exact.len(), "{what}: {} of {} rows came late", late(&found), exact.len());
    for limit in [1, 2, 10, 100, 1000] {
        let found = ordered(client, true, table, filter, distance, &format!("LIMIT {limit}"));
        let wanted = exact.len().min(limit);
        assert_eq!(found.len(), wanted, "{what} LIMIT {limit}");
        let Some((_, farthest)) = exact.get(wanted.saturating_sub(1)) else { continue };
        let near = found.iter().filter(|(_, distance)| *distance <= farthest + 1e-5 * (1.0 + farthest.abs())).count();
        assert!(near * 100 >= wanted * 95, "{what} LIMIT {limit}: {near} of the nearest");
    }
}

#[test]
fn one_vector_among_many_equal_ones_is_the_first() {
    let server = server();
    let mut client = server.connect().unwrap();
    for method in METHODS {
        for (early, number) in [(true, 0), (false, 1)] {
            let table = format!("t_{method}_{number}");
            run(&mut client, &format!("CREATE TABLE {table} (id int, e lsmvector(2)) USING {method}"));
            let index = format!("CREATE INDEX ON {table} USING lsm_hnsw (e)");
            let fill = format!(
                "INSERT INTO {table} SELECT g, '[1,1]' FROM generate_series(1, 99) g;
                 INSERT INTO {table} VALUES (0, '[9,9]');
                 INSERT INTO {table} SELECT g, '[1,1]' FROM generate_series(100, 199) g"
            );
            run(&mut client, &if early { format!("{index}; {fill}") } else { format!("{fill}; {index}") });
            run(&mut client, "SET enable_seqscan = off");
            let nearest = rows(&mut client, &format!("SELECT id FROM {table} ORDER BY e <-> '[9,9]' LIMIT 2"));
            assert_eq!((nearest.len(), nearest[0].as_str()), (2, "0"), "{table}");
            // Far more copies than a search keeps in view.
            run(&mut client, &format!("INSERT INTO {table} SELECT g, '[1,1]' FROM generate_series(200, 9999) g"));
            check(&mut client, &table, "true", "e <-> '[9,9]'");
            check(&mut client, &table, "true", "e <-> '[1,1]'");
        }
    }
}

#[test]
fn copies_of_few_vectors_all_come_whatever_ef_search_is() {
    let server = server();
    let mut client = server.connect().unwrap();
    for method in METHODS {
        for (number, (operator, class)) in
            [("<->", "lsm_vector_l2_ops"), ("<=>", "lsm_vector_cosine_ops"), ("<#>", "lsm_vector_ip_ops")]
                .iter()
                .enumerate()
        {
            let table = format!("t_{method}_{number}");
            run(
                &mut client,
                &format!(
                    "CREATE TABLE {table} (id int, e lsmvector(3)) USING {method};
                     INSERT INTO {table} SELECT g, ARRAY[g % 20, g % 5, 7 - g % 4]::real[]::lsmvector
                         FROM generate_series(1, 500) g;
                     CREATE INDEX ON {table} USING lsm_hnsw (e {class}) WITH (m = 4, ef_construction = 20);
                     INSERT INTO {table} SELECT id + 500, e FROM {table}"
                ),
            );
            for ef in [1, 10, 64, 1000] {
                run(&mut client, &format!("SET lsm_s3.ef_search = {ef}"));
                check(&mut client, &table, "true", &format!("e {operator} '[3,3,3]'"));
            }
            assert_eq!(late(&ordered(&mut client, true, &table, "true", &format!("e {operator} '[1,9,2]'"), "")), 0);
        }
    }
}

#[test]
fn rows_that_were_updated_hundreds_of_times_come_once() {
    let server = server();
    let mut client = server.connect().unwrap();
    for method in METHODS {
        run(
            &mut client,
            &format!(
                "CREATE TABLE t_{method} (id int, n int, e lsmvector(4)) USING {method} WITH (autovacuum_enabled = off);
                 CREATE INDEX ON t_{method} (n);
                 INSERT INTO t_{method} SELECT g, 0, ARRAY[g % 17, g % 5, g % 3, g % 11]::real[]::lsmvector
                     FROM generate_series(1, 300) g;
                 CREATE INDEX ON t_{method} USING lsm_hnsw (e)"
            ),
        );
        let table = format!("t_{method}");
        // The other index makes each of them a new entry with the same vector.
        run(&mut client, &format!("DO $$ BEGIN FOR i IN 1..200 LOOP UPDATE {table} SET n = i; END LOOP; END $$"));
        check(&mut client, &table, "true", "e <-> '[1,1,1,1]'");
        check(&mut client, &table, "id % 50 = 3", "e <-> '[16,0,2,10]'");
        run(&mut client, &format!("VACUUM {table}"));
        check(&mut client, &table, "true", "e <-> '[1,1,1,1]'");
        for turn in 1..=20 {
            let moved = format!("ARRAY[id * {turn} % 19, id % 5, id % 3, id % 7]::real[]::lsmvector");
            run(&mut client, &format!("UPDATE {table} SET e = {moved} WHERE id % 2 = {turn} % 2"));
            run(&mut client, &format!("BEGIN; UPDATE {table} SET e = '[0,0,0,0]'; DELETE FROM {table}; ROLLBACK"));
        }
        check(&mut client, &table, "true", "e <-> '[1,1,1,1]'");
        run(&mut client, &format!("DELETE FROM {table} WHERE id % 3 = 0"));
        run(&mut client, &format!("VACUUM {table}"));
        run(&mut client, "SELECT lsm_s3_flush()");
        run(&mut client, &format!("INSERT INTO {table} SELECT id + 1000, 0, e FROM {table}"));
        check(&mut client, &table, "true", "e <-> '[1,1,1,1]'");
        assert_eq!(value(&mut client, &format!("SELECT count(*) FROM {table}")), "400");
    }
}

#[test]
fn without_a_limit_every_row_comes_and_a_filter_gets_all_that_match() {
    let server = server();
    let mut client = server.connect().unwrap();
    for method in METHODS {
        let table = format!("t_{method}");
        run(
            &mut client,
            &format!(
                "CREATE TABLE {table} (id int, e lsmvector(6)) USING {method};
                 INSERT INTO {table} SELECT g, {0} FROM generate_series(1, 9000) g;
                 CREATE INDEX ON {table} USING lsm_hnsw (e);
                 INSERT INTO {table} SELECT g, {0} FROM generate_series(9001, 12000) g",
                scattered("g")
            ),
        );
        for query in ["[0.5,0.5,0.5,0.5,0.5,0.5]", "[0,0,0,0,0,0]", "[2,0,1,0,1,0]"] {
            let distance = format!("e <-> '{query}'");
            // All; one in 600; none; those that are far away; one alone.
            for filter in ["true", "id % 600 = 7", "id < 0", &format!("{distance} > 1.5"), "id = 11999"] {
                check(&mut client, &table, filter, &distance);
            }
            run(&mut client, "RESET lsm_s3.strict_order");
            let strict = ordered(&mut client, true, &table, "true", &distance, "");
            assert_eq!(late(&strict), 0);
            assert!(strict.len() > 11_900, "{} rows", strict.len());
        }
    }
}
