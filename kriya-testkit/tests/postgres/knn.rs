//! Nearest neighbours through SQL.

use crate::support::{failure, postgres::Client, rows, run, server, value};

const METRICS: [(&str, &str); 3] =
    [("<->", "lsm_vector_l2_ops"), ("<=>", "lsm_vector_cosine_ops"), ("<#>", "lsm_vector_ip_ops")];

fn fill(client: &mut Client, table: &str, method: &str, rows: usize) {
    run(
        client,
        &format!(
            "CREATE TABLE {table} (id int, e lsmvector(8)) USING {method};
             SELECT setseed(0.25);
             INSERT INTO {table} SELECT g, ARRAY[random(), random(), random(), random(), random(), random(), random(),
                 random()]::real[]::lsmvector FROM generate_series(1, {rows}) g"
        ),
    );
}

/// Share of the exact ten nearest that the index finds, over some queries.
fn recall(client: &mut Client, table: &str, operator: &str) -> f64 {
    let mut found = 0;
    for query in 0..20 {
        let from = format!("(SELECT e FROM {table} WHERE id = {})", query * 31 + 7);
        let sql = format!("SELECT id FROM {table} ORDER BY e {operator} {from} LIMIT 10");
        run(client, "SET enable_seqscan = off; SET enable_indexscan = on");
        let plan = rows(client, &format!("EXPLAIN {sql}")).join("\n");
        assert!(plan.contains("Index Scan using"), "{plan}");
        let approximate = rows(client, &sql);
        run(client, "SET enable_seqscan = on; SET enable_indexscan = off");
        let exact = rows(client, &sql);
        assert_eq!(approximate.len(), 10);
        found += exact.iter().filter(|id| approximate.contains(id)).count();
    }
    found as f64 / 200.0
}

#[test]
fn three_metrics_over_lsm_s3_and_heap_find_the_nearest() {
    let server = server();
    let mut client = server.connect().unwrap();
    for method in ["lsm_s3", "heap"] {
        for (number, (operator, class)) in METRICS.into_iter().enumerate() {
            let table = format!("t_{method}_{number}");
            fill(&mut client, &table, method, 1500);
            run(
                &mut client,
                &format!("CREATE INDEX ON {table} USING lsm_hnsw (e {class}) WITH (m = 8, ef_construction = 64)"),
            );
            // Half of the rows come after the index.
            run(&mut client, &format!("INSERT INTO {table} SELECT id + 1500, e + e FROM {table}"));
            let found = recall(&mut client, &table, operator);
            assert!(found >= 0.95, "{table} {operator}: recall {found}");
        }
    }
}

#[test]
fn a_limit_above_ef_search_and_a_filter_get_all_their_rows() {
    let server = server();
    let mut client = server.connect().unwrap();
    fill(&mut client, "t", "lsm_s3", 1000);
    run(&mut client, "CREATE INDEX ON t USING lsm_hnsw (e); SET enable_seqscan = off; SET lsm_s3.ef_search = 10");
    let query = "'[0,0,0,0,0,0,0,0]'";
    assert_eq!(rows(&mut client, &format!("SELECT id FROM t ORDER BY e <-> {query} LIMIT 500")).len(), 500);
    let filtered = format!("SELECT id FROM t WHERE id % 100 = 0 ORDER BY e <-> {query} LIMIT 8");
    assert_eq!(rows(&mut client, &filtered).len(), 8);
}

#[test]
fn other_sessions_rows_appear_with_their_commit_and_rolled_back_ones_never() {
    let server = server();
    let (mut one, mut two) = (server.connect().unwrap(), server.connect().unwrap());
    fill(&mut one, "t", "lsm_s3", 200);
    run(&mut one, "CREATE INDEX ON t USING lsm_hnsw (e)");
    let nearest = "SELECT id FROM t ORDER BY e <-> '[9,9,9,9,9,9,9,9]' LIMIT 1";
    run(&mut two, "SET enable_seqscan = off");
    run(&mut one, "SET enable_seqscan = off; BEGIN; INSERT INTO t VALUES (999, '[9,9,9,9,9,9,9,9]')");
    assert_eq!(value(&mut one, nearest), "999");
    assert_ne!(value(&mut two, nearest), "999");
    run(&mut one, "COMMIT");
    assert_eq!(value(&mut two, nearest), "999");
    run(&mut one, "BEGIN; DELETE FROM t WHERE id = 999; INSERT INTO t VALUES (1000, '[9,9,9,9,9,9,9,8]'); ROLLBACK");
    assert_eq!(value(&mut two, nearest), "999");
    run(&mut one, "UPDATE t SET e = '[0,0,0,0,0,0,0,0]' WHERE id = 999");
    assert_ne!(value(&mut two, nearest), "999");
}

#[test]
fn vacuum_of_a_heap_removes_entries_before_line_pointers_are_reused() {
    let server = server();
    let mut client = server.connect().unwrap();
    fill(&mut client, "t", "heap", 500);
    run(&mut client, "CREATE INDEX ON t USING lsm_hnsw (e)");
    run(&mut client, "DELETE FROM t WHERE id <= 250");
    run(&mut client, "VACUUM t");
    // New rows take the places of the deleted ones; under the old entries they would be found far too near.
    run(&mut client, "INSERT INTO t SELECT g + 1000, '[50,50,50,50,50,50,50,50]' FROM generate_series(1, 250) g");
    run(&mut client, "SET enable_seqscan = off");
    let ids = rows(&mut client, "SELECT id FROM t ORDER BY e <-> '[0,0,0,0,0,0,0,0]' LIMIT 200");
    assert_eq!(ids.len(), 200);
    assert!(ids.iter().all(|id| id.parse::<i32>().is_ok_and(|id| (251..=500).contains(&id))), "{ids:?}");
}

#[test]
fn bad_vectors_are_refused_in_pgvectors_words_and_the_server_lives() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(
        &mut client,
        "CREATE TABLE t (id int, e lsmvector) USING lsm_s3; CREATE INDEX ON t USING lsm_hnsw (e); INSERT INTO t VALUES (1, '[1,2,3]')",
    );
    assert_eq!(failure(&mut client, "INSERT INTO t VALUES (2, '[1,2]')").1, "expected 3 dimensions, not 2");
    run(&mut client, "SET enable_seqscan = off");
    let message = failure(&mut client, "SELECT * FROM t ORDER BY e <-> '[1,2]' LIMIT 1").1;
    assert_eq!(message, "different vector dimensions 3 and 2");
    run(&mut client, "INSERT INTO t VALUES (3, NULL)");
    assert_eq!(rows(&mut client, "SELECT id FROM t ORDER BY e <-> '[1,2,3]' LIMIT 5"), ["1"]);
    assert!(failure(&mut client, "CREATE INDEX ON t USING lsm_hnsw (e) WITH (m = 1)").1.contains("out of bounds"));
    let message = failure(&mut client, "CREATE INDEX ON t USING lsm_hnsw (e) WITH (m = 50, ef_construction = 60)").1;
    assert_eq!(message, "ef_construction must be greater than or equal to 2 * m");
}

#[test]
fn rows_that_were_deleted_do_not_hide_the_living_ones_behind_them() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE t (id int, e lsmvector(2)) USING lsm_s3; CREATE INDEX ON t USING lsm_hnsw (e)");
    // Generations of the same hundred places, all but the last deleted.
    for generation in 0..12 {
        run(
            &mut client,
            &format!(
                "DELETE FROM t; INSERT INTO t SELECT {generation} * 100 + g, ARRAY[g, g % 7]::real[]::lsmvector FROM generate_series(0, 99) g"
            ),
        );
    }
    for place in [0, 13, 50, 99] {
        let sql = format!("SELECT id FROM t ORDER BY e <-> '[{place}, {}]', id LIMIT 5", place % 7);
        run(&mut client, "SET enable_seqscan = off");
        let plain = sql.replace(", id LIMIT", " LIMIT");
        let found = rows(&mut client, &format!("SELECT array_agg(id ORDER BY id) FROM ({plain}) x"));
        assert_eq!(rows(&mut client, &plain)[0], (1100 + place).to_string());
        assert_eq!(found.len(), 1);
        let distances = |client: &mut Client, from: &str| {
            rows(client, &format!("SELECT e <-> '[{place}, {}]' FROM t WHERE id IN ({from})", place % 7)).len()
        };
        assert_eq!(distances(&mut client, &plain), 5);
    }
    assert_eq!(rows(&mut client, "SELECT id FROM t ORDER BY e <-> '[0, 0]' LIMIT 1000").len(), 100);
}
