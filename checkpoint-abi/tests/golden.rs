//! The bytes of every request and reply, written down: whoever changes them changes the protocol.

use cairn_abi::hint;
use cairn_abi::reply::{
    Ask, CheckpointFigures, Durability, Hello, Missing, SessionFigures, StoreFigures, StoredRegion, Ticket,
};
use cairn_abi::{
    CheckpointId, Envelope, Hint, Level, REPLY_SIZE, REQUEST_SIZE, RegionId, RegionMode, RegionName, Reply,
    ReplyBody, Request, SessionKey, Span, Status,
};

const _: () = assert!(REQUEST_SIZE == 128);
const _: () = assert!(REPLY_SIZE == 272);

const KEY: SessionKey = SessionKey([
    0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf,
]);

fn name(text: &str) -> RegionName {
    RegionName::new(text.as_bytes()).expect("a name of the right length")
}

/// The message that begins with these hexadecimal digits; the rest of it is zeros.
fn message<const SIZE: usize>(hex: &str) -> [u8; SIZE] {
    let digits: Vec<u8> =
        hex.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    let mut bytes = [0; SIZE];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    bytes
}

#[track_caller]
fn request_is(request: Envelope, hex: &str) {
    let golden: [u8; REQUEST_SIZE] = message(hex);
    let mut bytes = [0xff; REQUEST_SIZE];
    request.encode(&mut bytes);
    assert_eq!(bytes, golden);
    assert_eq!(Envelope::decode(&golden), Ok(request));
}

#[track_caller]
fn reply_is(reply: Reply, hex: &str) {
    let golden: [u8; REPLY_SIZE] = message(hex);
    let mut bytes = [0xff; REPLY_SIZE];
    reply.encode(&mut bytes);
    assert_eq!(bytes, golden);
    assert_eq!(Reply::decode(&golden), Ok(reply));
}

#[test]
fn hello() {
    request_is(
        Envelope {
            key: SessionKey([0; 16]),
            cursor: 0,
            request: Request::Hello { version: 1, features: 0x0102_0304_0506_0708 },
        },
        "0100000000000000 0000000000000000 \
             0000000000000000 0100000000000000 \
             0807060504030201",
    );
}

#[test]
fn register() {
    request_is(
        Envelope {
            key: KEY,
            cursor: 0x11,
            request: Request::Register {
                span: Span { address: 0x7f12_3456_7000, len: 0x20_0000 },
                name: name("table"),
                mode: RegionMode::Tracked,
                tag: 0,
            },
        },
        "0200000011000000 a0a1a2a3a4a5a6a7 \
             a8a9aaabacadaeaf 00705634127f0000 \
             0000200000000000 057461626c650000",
    );
}

#[test]
fn register_longest_name_hinted() {
    request_is(
        Envelope {
            key: KEY,
            cursor: 0,
            request: Request::Register {
                span: Span { address: 0x1000, len: 0x1000 },
                name: name(&"n".repeat(63)),
                mode: RegionMode::Hinted,
                tag: 0x0102_0304_0506_0708,
            },
        },
        "0200000000000000 a0a1a2a3a4a5a6a7 \
             a8a9aaabacadaeaf 0010000000000000 \
             0010000000000000 3f6e6e6e6e6e6e6e \
             6e6e6e6e6e6e6e6e 6e6e6e6e6e6e6e6e \
             6e6e6e6e6e6e6e6e 6e6e6e6e6e6e6e6e \
             6e6e6e6e6e6e6e6e 6e6e6e6e6e6e6e6e \
             6e6e6e6e6e6e6e6e 0100000000000000 \
             0807060504030201",
    );
}

#[test]
fn unregister() {
    request_is(
        Envelope { key: KEY, cursor: 0, request: Request::Unregister { region: RegionId(0x0102_0304) } },
        "0300000000000000 a0a1a2a3a4a5a6a7 \
             a8a9aaabacadaeaf 0403020100000000",
    );
}

#[test]
fn checkpoint() {
    request_is(
        Envelope { key: KEY, cursor: 0xffff_ffff, request: Request::Checkpoint },
        "04000000ffffffff a0a1a2a3a4a5a6a7 \
             a8a9aaabacadaeaf",
    );
}

#[test]
fn checkpoint_async() {
    request_is(
        Envelope { key: KEY, cursor: 0, request: Request::CheckpointAsync },
        "0400040000000000 a0a1a2a3a4a5a6a7 \
             a8a9aaabacadaeaf",
    );
}

#[test]
fn query_ticket() {
    for (wait, subject) in [(false, "03"), (true, "04")] {
        request_is(
            Envelope {
                key: KEY,
                cursor: 0,
                request: Request::Ticket { checkpoint: CheckpointId(0x1122_3344_5566_7788), wait },
            },
            &format!("0700000000000000 a0a1a2a3a4a5a6a7 a8a9aaabacadaeaf 8877665544332211 {subject}"),
        );
    }
}

#[test]
fn rollback() {
    request_is(
        Envelope {
            key: KEY,
            cursor: 0,
            request: Request::Rollback { checkpoint: CheckpointId(0x1122_3344_5566_7788) },
        },
        "0500000000000000 a0a1a2a3a4a5a6a7 \
             a8a9aaabacadaeaf 8877665544332211",
    );
}

#[test]
fn release() {
    request_is(
        Envelope { key: KEY, cursor: 0, request: Request::Release { checkpoint: CheckpointId(9) } },
        "0600000000000000 a0a1a2a3a4a5a6a7 \
             a8a9aaabacadaeaf 0900000000000000",
    );
}

#[test]
fn query_session() {
    request_is(
        Envelope { key: KEY, cursor: 0, request: Request::Query { checkpoint: None } },
        "0700000000000000 a0a1a2a3a4a5a6a7 \
             a8a9aaabacadaeaf",
    );
}

#[test]
fn query_checkpoint() {
    request_is(
        Envelope { key: KEY, cursor: 0, request: Request::Query { checkpoint: Some(CheckpointId(9)) } },
        "0700000000000000 a0a1a2a3a4a5a6a7 \
             a8a9aaabacadaeaf 0900000000000000 \
             0100000000000000",
    );
}

#[test]
fn query_next() {
    request_is(
        Envelope { key: KEY, cursor: 0, request: Request::QueryNext { after: CheckpointId(9) } },
        "0700000000000000 a0a1a2a3a4a5a6a7 \
             a8a9aaabacadaeaf 0900000000000000 \
             0200000000000000",
    );
}

#[test]
fn hints() {
    request_is(
        Envelope { key: KEY, cursor: 0, request: Request::Hints { table: 0x7f12_3456_7000 } },
        "0800000000000000 a0a1a2a3a4a5a6a7 \
             a8a9aaabacadaeaf 00705634127f0000",
    );
}

#[test]
fn hint_table() {
    assert_eq!(hint::encode_header(0x7ff), message::<16>("ff07000000000000 0000000000000000"));
    // What is reserved in the header is ignored: the program may write there while it's read.
    assert_eq!(hint::decode_header(&message("ff070000ffffffff ffffffffffffffff")), Some(0x7ff));
    let one = Hint { region: RegionId(0x0102_0304), word: 0x0506_0708, bits: 0x1122_3344_5566_7788 };
    let golden = message("0403020108070605 8877665544332211");
    assert_eq!(one.encode(), golden);
    assert_eq!(Hint::decode(&golden), one);
    assert_eq!(hint::HINT_TABLE_SIZE, 32768);
}

#[test]
fn refused() {
    reply_is(Reply::refusal(Status::RegionSet, 0x0102_0304), "0c00000000000000 0403020100000000");
}

#[test]
fn done() {
    reply_is(Reply::done(ReplyBody::Empty), "");
}

#[test]
fn hello_reply() {
    reply_is(
        Reply::done(ReplyBody::Hello(Hello {
            version: 1,
            features: 0x0102_0304_0506_0708,
            key: KEY,
            max_regions: 64,
            history: 8,
            max_bytes: 1 << 32,
        })),
        "0000010000000000 0000000000000000 \
             0100000040000000 0807060504030201 \
             a0a1a2a3a4a5a6a7 a8a9aaabacadaeaf \
             0800000000000000 0000000001000000",
    );
}

#[test]
fn region_reply() {
    reply_is(
        Reply::done(ReplyBody::Region(RegionId(0x0102_0304))),
        "0000020000000000 0000000000000000 \
             0403020100000000",
    );
}

#[test]
fn checkpoint_reply() {
    reply_is(
        Reply::done(ReplyBody::Checkpoint(CheckpointId(0x1122_3344_5566_7788))),
        "0000030000000000 0000000000000000 \
             8877665544332211",
    );
}

#[test]
fn ticket_reply() {
    for (done, byte) in [(false, "00"), (true, "01")] {
        reply_is(
            Reply::done(ReplyBody::Ticket(Ticket { id: CheckpointId(0x1122_3344_5566_7788), done })),
            &format!("0000070000000000 0000000000000000 8877665544332211 {byte}"),
        );
    }
}

#[test]
fn session_reply() {
    reply_is(
        Reply::done(ReplyBody::Session(SessionFigures {
            regions: 0x101,
            retained: 0x202,
            current: 0x303,
            checkpoints: 0x404,
            rollbacks: 0x505,
            mirror_bytes: 0x606,
            history_bytes: 0x707,
            table_bytes: 0x808,
            pages_compared: 0x909,
            pages_changed: 0xa0a,
            pages_protected: 0xb0b,
            pages_open: 0xc0c,
            pauses: 0xd0d,
            pause_ns: 0xe0e,
            longest_pause_ns: 0xf0f,
            arming_ns: 0x1010,
            faults_avoided: 0x1111,
            faults_taken: 0x1212,
            compares_wasted: 0x1313,
        })),
        "0000040000000000 0000000000000000 \
             0101000002020000 0303000000000000 \
             0404000000000000 0505000000000000 \
             0606000000000000 0707000000000000 \
             0808000000000000 0909000000000000 \
             0a0a000000000000 0b0b000000000000 \
             0c0c000000000000 0d0d000000000000 \
             0e0e000000000000 0f0f000000000000 \
             1010000000000000 1111000000000000 \
             1212000000000000 1313000000000000",
    );
}

#[test]
fn durable() {
    let envelope = |request| Envelope { key: KEY, cursor: 0, request };
    let key = "a0a1a2a3a4a5a6a7 a8a9aaabacadaeaf";
    let level = Level::Synced;
    request_is(
        envelope(Request::CheckpointDurable { level }),
        &format!("0400020000000000 {key} 0200000000000000"),
    );
    let checkpoint = CheckpointId(0x1122_3344_5566_7788);
    request_is(
        envelope(Request::Durability { checkpoint, wait: Some(Level::Written) }),
        &format!("0700000000000000 {key} 8877665544332211 0500000001000000"),
    );
    request_is(
        envelope(Request::Durability { checkpoint, wait: None }),
        &format!("0700000000000000 {key} 8877665544332211 0500000000000000"),
    );
    request_is(envelope(Request::Store), &format!("0700000000000000 {key} 0000000000000000 06000000"));
    request_is(envelope(Request::Recover { checkpoint: None }), &format!("0900000000000000 {key}"));
    request_is(
        envelope(Request::Stored { checkpoint: Some(CheckpointId(3)), name: name("table") }),
        &format!("0a00000000000000 {key} 0300000000000000 0000000000000000 057461626c650000"),
    );
    reply_is(
        Reply::done(ReplyBody::Durability(Durability { id: checkpoint, reached: Some(level) })),
        "0000080000000000 0000000000000000 8877665544332211 02000000",
    );
    reply_is(
        Reply::done(ReplyBody::Store(StoreFigures {
            written: 0x11,
            synced: 0x10,
            committed: 0x66,
            bytes_written: 0x2233,
            bytes_queued: 0x4455,
            queued: 2,
            level_of_all: Some(Level::Written),
            failed: 0x12,
            failed_errno: 28,
        })),
        "0000090000000000 0000000000000000 1100000000000000 1000000000000000 \
             3322000000000000 5544000000000000 0200000001000000 1200000000000000 \
             1c00000000000000 6600000000000000",
    );
    let (checkpoint, span) = (CheckpointId(7), Span { address: 0x1000, len: 0x2000 });
    let stored = StoredRegion { checkpoint, name: name("table"), span, tag: 0xabcd };
    reply_is(
        Reply { body: ReplyBody::Stored(stored), ..Reply::refusal(Status::Mismatch, 5) },
        "13000a0000000000 0500000000000000 0700000000000000 0010000000000000 \
             0020000000000000 cdab000000000000 057461626c650000",
    );
}

#[test]
fn figures_reply() {
    reply_is(
        Reply::done(ReplyBody::CheckpointFigures(CheckpointFigures {
            id: CheckpointId(9),
            parent: Some(CheckpointId(8)),
            pages_changed: 0x1234,
            bytes: 0x5678,
        })),
        "0000050000000000 0000000000000000 \
             0900000000000000 0800000000000000 \
             3412000000000000 7856000000000000 \
             0100000000000000",
    );
}

#[test]
fn first_figures_reply() {
    reply_is(
        Reply::done(ReplyBody::CheckpointFigures(CheckpointFigures {
            id: CheckpointId(1),
            parent: None,
            pages_changed: 0x1234,
            bytes: 0,
        })),
        "0000050000000000 0000000000000000 \
             0100000000000000 0000000000000000 \
             3412000000000000",
    );
}

#[test]
fn missing_reply() {
    reply_is(
        Reply::again(
            0x0a0b_0c0d,
            Ask::Touch,
            Missing::new(&[
                Span { address: 0x1000, len: 0x2000 },
                Span { address: 0x7fff_f000, len: 0x1000 },
            ]),
        ),
        "010006000d0c0b0a 0000000000000000 \
             0200000000000000 0010000000000000 \
             0020000000000000 00f0ff7f00000000 \
             0010000000000000",
    );
}

#[test]
fn settle_reply() {
    reply_is(
        Reply::again(7, Ask::Settle, Missing::new(&[Span { address: 0x4000_0000, len: 0x20_0000 }])),
        "0100060007000000 0100000000000000 \
             0100000000000000 0000004000000000 \
             0000200000000000",
    );
}
