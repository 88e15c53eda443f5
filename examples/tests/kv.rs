//! kv: a conversation on every engine, and its limits.

mod common;

use common::{complaint, engines, run};

const KV: &str = env!("CARGO_BIN_EXE_kv");

fn answers(args: &[&str], input: &str) -> String {
    let output = run(KV, engines()[0], args, input.as_bytes());
    assert!(output.status.success(), "{}", complaint(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn transactions_can_be_nested_committed_and_undone_on_every_engine() {
    let input = "SET a 1\nBEGIN\nSET a 2\nSET b x y\nBEGIN\nDEL a\nGET a\nROLLBACK\nGET a\nBEGIN\nSET c 3\nCOMMIT\n\
                 LIST\nROLLBACK\nLIST\nROLLBACK\nQUIT\nSET never read\n";
    let expected = "OK\nOK\nOK\nOK\nOK\nOK\nNONE\nOK\n2\nOK\nOK\nOK\nOK\n\
                    a 2\nb x y\nc 3\nOK\nOK\na 1\nOK\nERR no transaction is open\nOK\n";
    for engine in engines() {
        let output = run(KV, engine, &[], input.as_bytes());
        assert!(output.status.success(), "{engine}: {}", complaint(&output));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{engine}");
    }
}

#[test]
fn a_full_store_says_so_and_goes_on() {
    let answers =
        answers(&["--keys", "2", "--room", "1"], "SET a 1\nSET b 2\nSET c 3\nDEL a\nSET c 3\nLIST\n");
    assert!(answers.contains("ERR the store is full: it has 2 keys"), "{answers}");
    assert!(answers.ends_with("b 2\nc 3\nOK\n"), "{answers}");
    let too_long = format!("SET k {}\nGET k\n", "v".repeat(1024));
    assert!(self::answers(&["--room", "1"], &too_long).starts_with("ERR the store is full: 1025 bytes"));
}

#[test]
fn stats_name_the_engine_and_what_is_open() {
    for engine in engines() {
        let output = run(KV, engine, &["--keys", "9"], b"SET key val\nBEGIN\nSTATS\n");
        let stats = String::from_utf8(output.stdout).unwrap();
        for part in [&format!("engine {engine}"), "keys 1 of 9", "bytes 6 of ", "transactions 1 of "] {
            assert!(stats.contains(part), "{part} is missing in {stats}");
        }
    }
}

#[test]
fn any_bytes_are_answered() {
    let output = run(KV, engines()[0], &[], b"\xff\xfe\n\0\nSET \xff \x80\nGET \xff\nLIST");
    assert!(output.status.success(), "{}", complaint(&output));
    assert!(output.stdout.ends_with(b"OK\n\x80\nOK\n\xff \x80\nOK\n"));
}
