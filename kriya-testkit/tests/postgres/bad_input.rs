//! Input that makes no sense, or too much of it: an error as pgvector words it, nothing is lost, the server lives.

use std::io::Write;

use crate::support::{failure, run, server, told, value};

/// What is refused, its SQLSTATE and its words.
const REFUSED: &[(&str, &str, &str)] = &[
    ("INSERT INTO t VALUES (1, '[1,2]')", "22000", "expected 3 dimensions, not 2"),
    ("INSERT INTO t VALUES (1, '[1,2,3,4]')", "22000", "expected 3 dimensions, not 4"),
    ("INSERT INTO t VALUES (1, '[]')", "22000", "vector must have at least 1 dimension"),
    ("INSERT INTO t VALUES (1, '[1,NaN,3]')", "22000", "NaN not allowed in vector"),
    ("INSERT INTO t VALUES (1, '[1,Infinity,3]')", "22000", "infinite value not allowed in vector"),
    ("INSERT INTO t VALUES (1, '[1,1e400,3]')", "22003", "\"1e400\" is out of range for type lsmvector"),
    ("INSERT INTO t VALUES (1, '[1,2,3')", "22P02", "invalid input syntax for type lsmvector: \"[1,2,3\""),
    ("INSERT INTO t VALUES (1, 'garbage')", "22P02", "invalid input syntax for type lsmvector: \"garbage\""),
    ("INSERT INTO t VALUES (1, '[1,2,3]x')", "22P02", "invalid input syntax for type lsmvector: \"[1,2,3]x\""),
    ("UPDATE t SET e = '[1,2]'", "22000", "expected 3 dimensions, not 2"),
    ("SELECT * FROM t ORDER BY e <-> '[1,2]' LIMIT 1", "22000", "different vector dimensions 3 and 2"),
    ("SELECT * FROM free ORDER BY e <-> '[1,2]' LIMIT 1", "22000", "different vector dimensions 3 and 2"),
    ("CREATE TABLE x (e lsmvector(16001)) USING lsm_s3", "22023", "dimensions for type lsmvector cannot exceed 16000"),
    ("CREATE TABLE x (e lsmvector(0)) USING lsm_s3", "22023", "dimensions for type lsmvector must be at least 1"),
    ("CREATE TABLE x (e lsmvector(1,2)) USING lsm_s3", "22023", "invalid type modifier"),
    ("CREATE INDEX ON t USING lsm_hnsw (e) WITH (m = 101)", "22023", "value 101 out of bounds for option \"m\""),
    ("CREATE INDEX ON t USING lsm_hnsw (e) WITH (m = -1)", "22023", "value -1 out of bounds for option \"m\""),
    ("CREATE INDEX ON t USING lsm_hnsw (e) WITH (m = 'x')", "22023", "invalid value for integer option \"m\": x"),
    (
        "CREATE INDEX ON t USING lsm_hnsw (e) WITH (m = 99999999999999999999)",
        "22023",
        "invalid value for integer option \"m\": 99999999999999999999",
    ),
    ("CREATE INDEX ON t USING lsm_hnsw (e) WITH (lists = 10)", "22023", "unrecognized parameter \"lists\""),
    (
        "CREATE INDEX ON t USING lsm_hnsw (id)",
        "42704",
        "data type integer has no default operator class for access method \"lsm_hnsw\"",
    ),
    (
        "CREATE UNIQUE INDEX ON t USING lsm_hnsw (e)",
        "0A000",
        "access method \"lsm_hnsw\" does not support unique indexes",
    ),
    ("CREATE TABLE x (v int) USING lsm_s3 WITH (nonsense = 1)", "22023", "unrecognized parameter \"nonsense\""),
];

#[test]
fn what_makes_no_sense_is_refused_in_the_words_that_users_know() {
    let server = server();
    let mut client = server.connect().unwrap();
    for am in ["lsm_s3", "heap"] {
        run(
            &mut client,
            &format!("CREATE TABLE t (id int, e lsmvector(3)) USING {am}; CREATE INDEX ON t USING lsm_hnsw (e)"),
        );
        run(
            &mut client,
            &format!("CREATE TABLE free (id int, e lsmvector) USING {am}; CREATE INDEX ON free USING lsm_hnsw (e)"),
        );
        run(
            &mut client,
            "INSERT INTO t VALUES (0, '[1,2,3]'); INSERT INTO free VALUES (0, '[1,2,3]'); SET enable_seqscan = off",
        );
        let mut otherwise = Vec::new();
        for (sql, code, words) in REFUSED {
            if am == "heap" && sql.contains("USING lsm_s3") {
                continue;
            }
            let (found, message) = failure(&mut client, sql);
            if (found.as_str(), message.as_str()) != (*code, *words) {
                otherwise.push(format!("{sql} on {am}: {found} {message}"));
            }
        }
        assert!(otherwise.is_empty(), "{}", otherwise.join("\n"));
        // An index over a column of any dimensions takes those of its first row.
        assert_eq!(failure(&mut client, "INSERT INTO free VALUES (1, '[1,2]')").0, "22000");
        run(&mut client, "INSERT INTO t VALUES (2, NULL); INSERT INTO free VALUES (2, NULL)");
        assert_eq!(value(&mut client, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t"), "0 2");
        assert_eq!(value(&mut client, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM free"), "0 2");
        assert_eq!(value(&mut client, "SELECT id FROM t ORDER BY e <-> '[1,2,3]' LIMIT 1"), "0");
        run(&mut client, "DROP TABLE t, free; RESET enable_seqscan");
    }
}

#[test]
fn a_binary_copy_that_breaks_off_or_lies_leaves_nothing_behind() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE t (e lsmvector) USING lsm_s3; CREATE INDEX ON t USING lsm_hnsw (e)");
    let head = [&b"PGCOPY\n\xff\r\n\0"[..], &[0; 8]].concat();
    let row = |length: i32, vector: &[u8]| [&1i16.to_be_bytes()[..], &length.to_be_bytes(), vector].concat();
    let vector = |dim: i16, unused: i16, values: &[f32]| {
        let floats: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
        [&dim.to_be_bytes()[..], &unused.to_be_bytes(), &floats].concat()
    };
    let good = vector(3, 0, &[1.0, 2.0, 3.0]);
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("it breaks off in a vector", row(16, &good[..9])),
        ("the dimensions are more than the bytes", row(16, &vector(4, 0, &[1.0, 2.0, 3.0]))),
        ("the dimensions are fewer than the bytes", row(16, &vector(2, 0, &[1.0, 2.0, 3.0]))),
        ("negative dimensions", row(16, &vector(-3, 0, &[1.0, 2.0, 3.0]))),
        ("the reserved field is used", row(16, &vector(3, 7, &[1.0, 2.0, 3.0]))),
        ("not a number", row(16, &vector(3, 0, &[1.0, f32::NAN, 3.0]))),
        ("no dimensions", row(4, &vector(0, 0, &[]))),
        ("a length that is a lie", row(i32::MAX, &good)),
    ];
    for (what, bytes) in bad {
        let mut copy = client.copy_in("COPY t FROM STDIN (FORMAT binary)").unwrap();
        let sent =
            copy.write_all(&head).and_then(|()| copy.write_all(&row(16, &good))).and_then(|()| copy.write_all(&bytes));
        let ended = sent.map_err(|_| ()).and_then(|()| copy.finish().map_err(|_| ()));
        assert!(ended.is_err(), "{what}");
        assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "0", "{what}");
    }
    let mut copy = client.copy_in("COPY t FROM STDIN (FORMAT binary)").unwrap();
    copy.write_all(&[&head[..], &row(16, &good), &(-1i16).to_be_bytes()].concat()).unwrap();
    copy.finish().unwrap();
    assert_eq!(value(&mut client, "SELECT e FROM t"), "[1,2,3]");
}

#[test]
fn a_value_of_a_hundred_megabytes_goes_in_and_comes_out_and_one_that_is_too_large_does_not() {
    let mut server = server();
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE t (id int, v text) USING lsm_s3");
    run(&mut client, "INSERT INTO t SELECT 1, string_agg(md5(g::text), '') FROM generate_series(1, 3276800) g");
    let sum = value(&mut client, "SELECT length(v) || ' ' || md5(v) FROM t");
    assert!(sum.starts_with("104857600 "));
    if let Ok(()) = client.batch_execute("INSERT INTO t SELECT 2, repeat(v, 12) FROM t") {
        panic!("twelve hundred megabytes fit")
    }
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "1");
    server.kill().unwrap();
    server.start().unwrap();
    let mut client = server.connect().unwrap();
    assert_eq!(value(&mut client, "SELECT length(v) || ' ' || md5(v) FROM t"), sum);
    // Vectors of the most dimensions there can be.
    run(&mut client, "CREATE TABLE wide (e lsmvector) USING lsm_s3");
    run(&mut client, "INSERT INTO wide SELECT array_agg(g)::real[]::lsmvector FROM generate_series(1, 16000) g");
    let error = client
        .batch_execute("INSERT INTO wide SELECT array_agg(g)::real[]::lsmvector FROM generate_series(1, 16001) g");
    assert_eq!(told(&error.unwrap_err()), "vector cannot have more than 16000 dimensions");
    assert_eq!(value(&mut client, "SELECT count(*) FROM wide"), "1");
}
