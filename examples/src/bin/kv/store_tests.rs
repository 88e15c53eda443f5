//! The store against a map, and at its limits.

use std::collections::BTreeMap;

use cairn_guest::EngineKind;

use super::*;

fn store(keys: usize, bytes: usize) -> (Session, Store) {
    let mut session = Session::open_with(EngineKind::FullCopy).unwrap();
    let store = Store::new(&mut session, keys, bytes).unwrap();
    (session, store)
}

/// A fixed sequence of numbers that look random (xorshift64).
fn numbers() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(0x2545_f491_4f6c_dd1d_u64), |x| {
        let x = x ^ (x << 13);
        let x = x ^ (x >> 7);
        Some(x ^ (x << 17))
    })
}

#[test]
fn any_sequence_leaves_what_a_map_would_have() {
    let (mut session, store) = store(40, 600);
    let mut model = BTreeMap::new();
    for number in numbers().take(20_000) {
        let key = format!("key{}", number % 61).into_bytes();
        let value = vec![b'v'; usize::try_from(number >> 8).unwrap() % 24];
        if number.is_multiple_of(3) {
            assert_eq!(store.delete(&mut session, &key), model.remove(&key).is_some());
        } else if store.set(&mut session, &key, &value).is_ok() {
            model.insert(key, value);
        }
        let bytes = model.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let stats = store.stats(&session);
        assert_eq!((stats.keys, stats.bytes), (model.len(), bytes));
        assert!(bytes <= stats.max_bytes);
    }
    let expected: Vec<_> = model.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
    assert_eq!(store.sorted(&session), expected);
}

#[test]
fn keys_fit_up_to_the_limit_and_no_further() {
    let (mut session, store) = store(2, 4096);
    store.set(&mut session, b"a", b"1").unwrap();
    store.set(&mut session, b"b", b"2").unwrap();
    assert_eq!(store.set(&mut session, b"c", b"3"), Err(Full::Keys(2)));
    store.set(&mut session, b"a", b"replaced").unwrap();
    assert!(store.delete(&mut session, b"b"));
    store.set(&mut session, b"c", b"3").unwrap();
    assert_eq!(store.get(&session, b"a"), Some(&b"replaced"[..]));
}

#[test]
fn bytes_fit_up_to_the_limit_and_no_further() {
    let (mut session, store) = store(8, 8);
    store.set(&mut session, b"k", b"1234567").unwrap();
    assert_eq!(store.set(&mut session, b"k", b"12345678"), Err(Full::Bytes { needed: 9, free: 8 }));
    assert_eq!(store.set(&mut session, b"l", b""), Err(Full::Bytes { needed: 1, free: 0 }));
    assert_eq!(store.get(&session, b"k"), Some(&b"1234567"[..]));
    store.set(&mut session, b"k", b"abcdefg").unwrap();
    assert_eq!(store.get(&session, b"k"), Some(&b"abcdefg"[..]));
}

#[test]
fn a_rollback_takes_back_pairs_and_counts() {
    let (mut session, store) = store(8, 4096);
    store.set(&mut session, b"a", b"before").unwrap();
    let stats = store.stats(&session);
    let checkpoint = session.checkpoint().unwrap();
    store.set(&mut session, b"a", b"after").unwrap();
    store.set(&mut session, b"b", b"new").unwrap();
    session.rollback(checkpoint).unwrap();
    assert_eq!(store.sorted(&session), [(&b"a"[..], &b"before"[..])]);
    assert_eq!(store.stats(&session), stats);
}
