//! The README's statements, as typed.

use crate::support::{rows, run, server, value};

#[test]
fn the_quick_start_works_and_survives_a_restart_and_a_kill() {
    let mut server = server();
    let mut client = server.connect().unwrap();
    run(
        &mut client,
        "CREATE TABLE documents (id TEXT, title TEXT, embedding LsmVector) USING lsm_s3;
         CREATE INDEX ON documents USING lsm_hnsw (embedding);
         INSERT INTO documents VALUES
           ('doc1', 'Intro to ML',   '[0.1, 0.2, 0.3]'),
           ('doc2', 'Deep Learning', '[0.9, 0.8, 0.7]');
         CREATE INDEX ON documents USING lsm_hnsw (embedding lsm_vector_cosine_ops);
         CREATE INDEX ON documents USING lsm_hnsw (embedding lsm_vector_ip_ops);
         INSERT INTO documents VALUES ('doc3', 'Opposite', '[-0.1, -0.2, -0.3]')",
    );
    for round in 0..3 {
        let mut client = server.connect().unwrap();
        let nearest = |operator: &str| {
            format!("SELECT id FROM documents ORDER BY embedding {operator} '[0.1, 0.2, 0.3]'::LsmVector LIMIT 5")
        };
        for scan in ["SET enable_seqscan = on", "SET enable_seqscan = off"] {
            run(&mut client, scan);
            assert_eq!(rows(&mut client, &nearest("<->")), ["doc1", "doc3", "doc2"], "round {round}");
            assert_eq!(rows(&mut client, &nearest("<=>")), ["doc1", "doc2", "doc3"], "round {round}");
            assert_eq!(rows(&mut client, &nearest("<#>")), ["doc2", "doc1", "doc3"], "round {round}");
        }
        let plan = rows(&mut client, &format!("EXPLAIN {}", nearest("<->"))).join("\n");
        assert!(plan.contains("Index Scan using documents_embedding_idx"), "{plan}");
        let distance = "SELECT embedding <-> '[0.1, 0.2, 0.3]'::LsmVector FROM documents WHERE id = 'doc1'";
        assert_eq!(value(&mut client, distance), "0");
        match round {
            0 => server.restart().unwrap(),
            1 => {
                server.kill().unwrap();
                server.start().unwrap();
            }
            _ => {}
        }
    }
}

#[test]
fn status_and_flush_tell_what_there_is() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE t (id int) USING lsm_s3; INSERT INTO t SELECT generate_series(1, 1000)");
    let flushed = value(&mut client, "SELECT lsm_s3_flush()");
    assert!(flushed.contains("manifest"), "{flushed}");
    let status = value(&mut client, "SELECT lsm_s3_status()");
    assert!(status.contains("endpoint: local") && status.contains("level 0: "), "{status}");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "1000");
}

#[test]
fn without_preloading_the_first_session_starts_the_worker() {
    let server = crate::support::started(crate::support::builder().without_library());
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE t (id int) USING lsm_s3; INSERT INTO t VALUES (1)");
    assert_eq!(value(&mut server.connect().unwrap(), "SELECT count(*) FROM t"), "1");
}
