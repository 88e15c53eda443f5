//! Encoding and decoding against every kind, random fields, and bytes that nobody wrote.

use cairn_abi::hint::{self, MAX_HINTS};
use cairn_abi::reply::{
    Ask, CheckpointFigures, Durability, Hello, MAX_MISSING, Missing, SessionFigures, StoreFigures,
    StoredRegion, Ticket,
};
use cairn_abi::{
    CheckpointId, DecodeError, Envelope, FLAG_ASYNC, FLAG_DURABLE, Hint, Level, NameError, REPLY_SIZE,
    REQUEST_SIZE, RegionId, RegionMode, RegionName, Reply, ReplyBody, Request, SessionKey, Span, Status,
};

/// Knuth's MMIX generator: the same numbers in every run.
struct Lcg(u64);

impl Lcg {
    fn u64(&mut self) -> u64 {
        u64::from(self.u32()) << 32 | u64::from(self.u32())
    }

    fn u32(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The low bits of such a generator have short periods.
        u32::try_from(self.0 >> 32).unwrap()
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.u32()).unwrap() % bound
    }

    fn byte(&mut self) -> u8 {
        self.u32().to_le_bytes()[3]
    }

    fn key(&mut self) -> SessionKey {
        SessionKey([0; 16].map(|_: u8| self.byte()))
    }

    fn checkpoint(&mut self) -> CheckpointId {
        CheckpointId(self.u64())
    }

    fn span(&mut self) -> Span {
        Span { address: self.u64(), len: self.u64() }
    }

    fn name(&mut self) -> RegionName {
        let len = 1 + self.below(63);
        let text: Vec<u8> = (0..len).map(|_| b' ' + self.byte() % 95).collect();
        RegionName::new(&text).unwrap()
    }

    fn mode(&mut self) -> RegionMode {
        if self.below(2) == 0 { RegionMode::Tracked } else { RegionMode::Hinted }
    }

    fn level(&mut self) -> Level {
        if self.below(2) == 0 { Level::Written } else { Level::Synced }
    }

    fn some_checkpoint(&mut self) -> Option<CheckpointId> {
        (self.below(2) == 0).then(|| self.checkpoint())
    }

    fn envelope(&mut self) -> Envelope {
        let request = match self.below(17) {
            0 => Request::Hello { version: self.u32(), features: self.u64() },
            1 => {
                Request::Register { span: self.span(), name: self.name(), mode: self.mode(), tag: self.u64() }
            }
            2 => Request::Unregister { region: RegionId(self.u32()) },
            3 => Request::Checkpoint,
            4 => Request::Rollback { checkpoint: self.checkpoint() },
            5 => Request::Release { checkpoint: self.checkpoint() },
            6 => Request::Query { checkpoint: None },
            7 => Request::QueryNext { after: self.checkpoint() },
            8 => Request::Hints { table: self.u64() },
            9 => Request::CheckpointAsync,
            10 => Request::Ticket { checkpoint: self.checkpoint(), wait: self.below(2) == 1 },
            11 => Request::CheckpointDurable { level: self.level() },
            12 => {
                let wait = (self.below(2) == 1).then(|| self.level());
                Request::Durability { checkpoint: self.checkpoint(), wait }
            }
            13 => Request::Store,
            14 => Request::Recover { checkpoint: self.some_checkpoint() },
            15 => Request::Stored { checkpoint: self.some_checkpoint(), name: self.name() },
            _ => Request::Query { checkpoint: Some(self.checkpoint()) },
        };
        Envelope { key: self.key(), cursor: self.u32(), request }
    }

    fn reply(&mut self) -> Reply {
        let body = match self.below(12) {
            0 => ReplyBody::Empty,
            1 => ReplyBody::Hello(Hello {
                version: self.u32(),
                features: self.u64(),
                key: self.key(),
                max_regions: self.u32(),
                history: self.u32(),
                max_bytes: self.u64(),
            }),
            2 => ReplyBody::Region(RegionId(self.u32())),
            3 => ReplyBody::Checkpoint(self.checkpoint()),
            4 => ReplyBody::Session(SessionFigures {
                regions: self.u32(),
                retained: self.u32(),
                current: self.u64(),
                checkpoints: self.u64(),
                rollbacks: self.u64(),
                mirror_bytes: self.u64(),
                history_bytes: self.u64(),
                table_bytes: self.u64(),
                pages_compared: self.u64(),
                pages_changed: self.u64(),
                pages_protected: self.u64(),
                pages_open: self.u64(),
                pauses: self.u64(),
                pause_ns: self.u64(),
                longest_pause_ns: self.u64(),
                arming_ns: self.u64(),
                faults_avoided: self.u64(),
                faults_taken: self.u64(),
                compares_wasted: self.u64(),
            }),
            kind @ 5..=6 => ReplyBody::CheckpointFigures(CheckpointFigures {
                id: self.checkpoint(),
                parent: (kind == 5).then(|| self.checkpoint()),
                pages_changed: self.u64(),
                bytes: self.u64(),
            }),
            9 => {
                let reached = (self.below(3) > 0).then(|| self.level());
                ReplyBody::Durability(Durability { id: self.checkpoint(), reached })
            }
            10 => ReplyBody::Store(StoreFigures {
                written: self.u64(),
                synced: self.u64(),
                committed: self.u64(),
                bytes_written: self.u64(),
                bytes_queued: self.u64(),
                queued: self.u32(),
                level_of_all: (self.below(3) > 0).then(|| self.level()),
                failed: self.u64(),
                failed_errno: self.u32(),
            }),
            11 => ReplyBody::Stored(StoredRegion {
                checkpoint: self.checkpoint(),
                name: self.name(),
                span: self.span(),
                tag: self.u64(),
            }),
            7 => ReplyBody::Ticket(Ticket { id: self.checkpoint(), done: self.below(2) == 1 }),
            _ => {
                let spans: Vec<Span> = (0..self.below(MAX_MISSING + 1)).map(|_| self.span()).collect();
                ReplyBody::Missing(Missing::new(&spans))
            }
        };
        let status = Status::ALL[self.below(Status::ALL.len())];
        let detail = if status == Status::Again { self.u32() % 2 } else { self.u32() };
        Reply { status, cursor: self.u32(), detail, body }
    }
}

fn bytes_of_request(request: &Envelope) -> [u8; REQUEST_SIZE] {
    let mut bytes = [0xff; REQUEST_SIZE];
    request.encode(&mut bytes);
    bytes
}

fn bytes_of_reply(reply: &Reply) -> [u8; REPLY_SIZE] {
    let mut bytes = [0xff; REPLY_SIZE];
    reply.encode(&mut bytes);
    bytes
}

const KEY: SessionKey = SessionKey([7; 16]);

fn register() -> [u8; REQUEST_SIZE] {
    let span = Span { address: 0x1000, len: 0x1000 };
    let (name, mode) = (RegionName::new(b"table").unwrap(), RegionMode::Tracked);
    let request = Request::Register { span, name, mode, tag: 9 };
    bytes_of_request(&Envelope { key: KEY, cursor: 0, request })
}

#[test]
fn what_was_encoded_decodes_to_itself() {
    let mut random = Lcg(1);
    for _ in 0..20_000 {
        let request = random.envelope();
        assert_eq!(Envelope::decode(&bytes_of_request(&request)), Ok(request));
        let reply = random.reply();
        assert_eq!(Reply::decode(&bytes_of_reply(&reply)), Ok(reply));
    }
}

/// Decoding has one meaning per byte string and encoding one byte string per meaning: what decodes at all
/// encodes to the same bytes again. So no bit of an accepted message is ignored.
#[test]
fn what_decodes_encodes_to_the_same_bytes() {
    let mut random = Lcg(2);
    for _ in 0..20_000 {
        let mut request = bytes_of_request(&random.envelope());
        request[random.below(REQUEST_SIZE)] ^= 1 << random.below(8);
        if let Ok(decoded) = Envelope::decode(&request) {
            assert_eq!(bytes_of_request(&decoded), request);
        }
        let mut reply = bytes_of_reply(&random.reply());
        reply[random.below(REPLY_SIZE)] ^= 1 << random.below(8);
        if let Ok(decoded) = Reply::decode(&reply) {
            assert_eq!(bytes_of_reply(&decoded), reply);
        }
    }
}

#[test]
fn arbitrary_bytes_do_not_panic() {
    let mut random = Lcg(3);
    for _ in 0..50_000 {
        let mut bytes = [0; REPLY_SIZE + 8];
        bytes.fill_with(|| random.byte());
        // Half of them get a kind that exists, to come past the first check.
        if random.below(2) == 0 {
            bytes[..4].copy_from_slice(&[random.byte() % 20, 0, random.byte() % 8, 0]);
        }
        let len = random.below(bytes.len() + 1);
        for bytes in [&bytes[..len], &bytes[..REQUEST_SIZE], &bytes[..REPLY_SIZE]] {
            let _ = Envelope::decode(bytes).map_err(|error| (error.status(), error.to_string()));
            let _ = Reply::decode(bytes).map_err(|error| (error.status(), error.to_string()));
        }
    }
}

#[test]
fn only_the_exact_size_is_a_message() {
    let mut random = Lcg(4);
    for _ in 0..50 {
        let request = bytes_of_request(&random.envelope());
        for len in 0..REQUEST_SIZE {
            let error = DecodeError::TooShort { len, want: REQUEST_SIZE };
            assert_eq!(Envelope::decode(&request[..len]), Err(error));
            assert_eq!(error.status(), Status::Malformed);
        }
        let reply = bytes_of_reply(&random.reply());
        for len in 0..REPLY_SIZE {
            assert_eq!(Reply::decode(&reply[..len]), Err(DecodeError::TooShort { len, want: REPLY_SIZE }));
        }
        let longer = [0; REPLY_SIZE + 1];
        let too_long = |want| DecodeError::TooLong { len: longer.len(), want };
        assert_eq!(Envelope::decode(&longer), Err(too_long(REQUEST_SIZE)));
        assert_eq!(Reply::decode(&longer), Err(too_long(REPLY_SIZE)));
    }
}

#[test]
fn unknown_kinds_and_flags_are_unsupported() {
    let mut bytes = bytes_of_request(&Envelope { key: KEY, cursor: 0, request: Request::Checkpoint });
    for kind in [0, 11, 0x104, u16::MAX] {
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        assert_eq!(Envelope::decode(&bytes), Err(DecodeError::UnknownKind(kind)));
    }
    bytes[..2].copy_from_slice(&4_u16.to_le_bytes());
    let unknown = |flags: &u16| ![FLAG_ASYNC, FLAG_DURABLE].contains(flags);
    for flags in (0..16).map(|bit| 1_u16 << bit).filter(unknown).chain([3, 6, u16::MAX]) {
        bytes[2..4].copy_from_slice(&flags.to_le_bytes());
        let error = DecodeError::UnknownFlags(flags);
        assert_eq!(Envelope::decode(&bytes), Err(error));
        assert_eq!(error.status(), Status::Unsupported);
    }
    assert_eq!(DecodeError::UnknownKind(0).status(), Status::Unsupported);
    // One request's flag is unknown to the others.
    let id = CheckpointId(1);
    let query = Request::Query { checkpoint: Some(id) };
    for request in
        [query, Request::Ticket { checkpoint: id, wait: true }, Request::Release { checkpoint: id }]
    {
        let mut bytes = bytes_of_request(&Envelope { key: KEY, cursor: 0, request });
        bytes[2..4].copy_from_slice(&FLAG_ASYNC.to_le_bytes());
        assert_eq!(Envelope::decode(&bytes), Err(DecodeError::UnknownFlags(FLAG_ASYNC)));
        bytes[2..4].copy_from_slice(&FLAG_DURABLE.to_le_bytes());
        assert_eq!(Envelope::decode(&bytes), Err(DecodeError::UnknownFlags(FLAG_DURABLE)));
    }
}

#[test]
fn a_level_is_known() {
    let request = |request| bytes_of_request(&Envelope { key: KEY, cursor: 0, request });
    let mut durable = request(Request::CheckpointDurable { level: Level::Synced });
    let mut query = request(Request::Durability { checkpoint: CheckpointId(1), wait: Some(Level::Written) });
    let reached = Durability { id: CheckpointId(1), reached: Some(Level::Synced) };
    let mut reply = bytes_of_reply(&Reply::done(ReplyBody::Durability(reached)));
    let mut store = bytes_of_reply(&Reply::done(ReplyBody::Store(StoreFigures::default())));
    for level in [3_u32, 256, u32::MAX] {
        let bad = |offset| DecodeError::BadField { offset, value: level.into() };
        durable[24..28].copy_from_slice(&level.to_le_bytes());
        assert_eq!(Envelope::decode(&durable), Err(bad(24)));
        query[36..40].copy_from_slice(&level.to_le_bytes());
        assert_eq!(Envelope::decode(&query), Err(bad(36)));
        reply[24..28].copy_from_slice(&level.to_le_bytes());
        assert_eq!(Reply::decode(&reply), Err(bad(24)));
        store[52..56].copy_from_slice(&level.to_le_bytes());
        assert_eq!(Reply::decode(&store), Err(bad(52)));
    }
    durable[24..28].fill(0);
    assert_eq!(Envelope::decode(&durable), Err(DecodeError::BadField { offset: 24, value: 0 }));
    let mut plain = request(Request::Query { checkpoint: Some(CheckpointId(1)) });
    plain[36] = 1;
    assert_eq!(Envelope::decode(&plain), Err(DecodeError::ReservedSet(36)), "another subject has no level");
}

#[test]
fn a_stored_region_has_a_name() {
    let (name, span) = (RegionName::new(b"table").unwrap(), Span { address: 0x1000, len: 0x1000 });
    let stored = StoredRegion { checkpoint: CheckpointId(1), name, span, tag: 1 };
    let refused = |change: fn(&mut [u8; REPLY_SIZE])| {
        let mut bytes = bytes_of_reply(&Reply::done(ReplyBody::Stored(stored)));
        change(&mut bytes);
        Reply::decode(&bytes).unwrap_err()
    };
    assert_eq!(refused(|bytes| bytes[48] = 64), DecodeError::BadName(NameError::TooLong(64)));
    assert_eq!(refused(|bytes| bytes[48..54].fill(0)), DecodeError::BadName(NameError::Empty));
    assert_eq!(refused(|bytes| bytes[48] = 4), DecodeError::ReservedSet(53), "a byte behind the name");
}

#[test]
fn reserved_bytes_must_be_zero() {
    let template = bytes_of_request(&Envelope { key: KEY, cursor: 0, request: Request::Checkpoint });
    for offset in 24..REQUEST_SIZE {
        let mut bytes = template;
        bytes[offset] = 0x80;
        assert_eq!(Envelope::decode(&bytes), Err(DecodeError::ReservedSet(offset)));
    }
    let template = bytes_of_reply(&Reply::done(ReplyBody::Empty));
    for offset in 12..REPLY_SIZE {
        let mut bytes = template;
        bytes[offset] = 1;
        assert_eq!(Reply::decode(&bytes), Err(DecodeError::ReservedSet(offset)));
    }
    assert_eq!(DecodeError::ReservedSet(0).status(), Status::Malformed);
}

#[test]
fn names_are_checked_and_padded_with_zeros() {
    let refused = |change: fn(&mut [u8; REQUEST_SIZE])| {
        let mut bytes = register();
        change(&mut bytes);
        Envelope::decode(&bytes).unwrap_err()
    };
    assert_eq!(refused(|bytes| bytes[40] = 64), DecodeError::BadName(NameError::TooLong(64)));
    assert_eq!(refused(|bytes| bytes[40..46].fill(0)), DecodeError::BadName(NameError::Empty));
    assert_eq!(refused(|bytes| bytes[41] = 0xff), DecodeError::BadName(NameError::NotText));
    assert_eq!(refused(|bytes| bytes[40] = 6), DecodeError::BadName(NameError::NotText), "a NUL in the name");
    assert_eq!(refused(|bytes| bytes[40] = 4), DecodeError::ReservedSet(45), "a byte behind the name");
    assert_eq!(DecodeError::BadName(NameError::Empty).status(), Status::BadName);
}

#[test]
fn a_subject_is_known_and_the_session_has_no_id() {
    let mut bytes =
        bytes_of_request(&Envelope { key: KEY, cursor: 0, request: Request::Query { checkpoint: None } });
    bytes[24] = 1;
    assert_eq!(Envelope::decode(&bytes), Err(DecodeError::ReservedSet(24)));
    bytes[32] = 6;
    assert_eq!(Envelope::decode(&bytes), Err(DecodeError::ReservedSet(24)), "nor has the store");
    bytes[32] = 7;
    assert_eq!(Envelope::decode(&bytes), Err(DecodeError::BadField { offset: 32, value: 7 }));
}

#[test]
fn a_mode_is_known() {
    let mut bytes = register();
    for mode in [2_u32, 256, u32::MAX] {
        bytes[104..108].copy_from_slice(&mode.to_le_bytes());
        let error = DecodeError::BadField { offset: 104, value: mode.into() };
        assert_eq!(Envelope::decode(&bytes), Err(error));
        assert_eq!(error.status(), Status::Malformed);
    }
}

#[test]
fn a_table_has_at_most_so_many_hints() {
    for (count, read) in [(0, Some(0)), (2047, Some(MAX_HINTS)), (2048, None), (u32::MAX, None)] {
        assert_eq!(hint::decode_header(&hint::encode_header(count)), read);
    }
    let mut random = Lcg(9);
    for _ in 0..1000 {
        let hint = Hint { region: RegionId(random.u32()), word: random.u32(), bits: random.u64() };
        assert_eq!(Hint::decode(&hint.encode()), hint);
    }
}

#[test]
fn pages_are_put_into_words() {
    let words = |pages| hint::words(pages).collect::<Vec<_>>();
    assert_eq!(words(0..1), [(0, 1)]);
    assert_eq!(words(63..66), [(0, 1 << 63), (1, 3)]);
    assert_eq!(words(64..128), [(1, u64::MAX)]);
    assert_eq!(words(10..130), [(0, u64::MAX << 10), (1, u64::MAX), (2, 3)]);
    assert_eq!(words(5..5), []);
    #[expect(clippy::reversed_empty_ranges, reason = "what a caller may get wrong")]
    let backwards = 9..3;
    assert_eq!(words(backwards), []);
    assert_eq!(words(u64::MAX - 1..u64::MAX), [], "a word whose number can't be told");
    let mut random = Lcg(10);
    for _ in 0..500 {
        let (start, len) = (u64::from(random.u32() % 300), u64::from(random.u32() % 300));
        let told = words(start..start + len).into_iter();
        let pages = told.flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| u64::from(word) * 64 + bit)
        });
        assert!(pages.eq(start..start + len), "{start} {len}");
    }
}

#[test]
fn a_reply_lists_at_most_15_spans() {
    let span = Span { address: 0x1000, len: 0x1000 };
    let mut bytes = bytes_of_reply(&Reply::again(3, Ask::Touch, Missing::new(&[span; MAX_MISSING])));
    assert!(Reply::decode(&bytes).is_ok());
    for count in [MAX_MISSING + 1, 255, 256] {
        bytes[16..20].copy_from_slice(&u32::try_from(count).unwrap().to_le_bytes());
        let value = u64::try_from(count).unwrap();
        assert_eq!(Reply::decode(&bytes), Err(DecodeError::BadField { offset: 16, value }));
    }
    assert_eq!(Missing::new(&[span; MAX_MISSING + 1]).spans().len(), MAX_MISSING);
}

#[test]
fn what_is_asked_for_is_known() {
    let mut bytes = bytes_of_reply(&Reply::again(3, Ask::Settle, Missing::new(&[])));
    assert_eq!(Reply::decode(&bytes).map(|reply| reply.ask()), Ok(Some(Ask::Settle)));
    for detail in [2, 256, u32::MAX] {
        bytes[8..12].copy_from_slice(&detail.to_le_bytes());
        let value = detail.into();
        assert_eq!(Reply::decode(&bytes), Err(DecodeError::BadField { offset: 8, value }));
    }
    // With any other status it's an id.
    assert_eq!(Reply::refusal(Status::Overlap, 1).ask(), None);
    assert!(Reply::decode(&bytes_of_reply(&Reply::refusal(Status::Overlap, 2))).is_ok());
}

#[test]
fn unknown_statuses_are_refused() {
    let mut bytes = bytes_of_reply(&Reply::done(ReplyBody::Empty));
    bytes[..2].copy_from_slice(&21_u16.to_le_bytes());
    assert_eq!(Reply::decode(&bytes), Err(DecodeError::UnknownStatus(21)));
}

#[test]
fn answers_of_a_fork_point_are_lines() {
    use cairn_abi::fork_point::Answer;
    let answers = [
        Answer::Taken(CheckpointId(1)),
        Answer::Resumed(CheckpointId(u64::MAX)),
        Answer::Failed("no room: it's full"),
        Answer::Failed(""),
    ];
    for answer in answers {
        let line = answer.to_string();
        assert_eq!(Answer::parse(&line), Some(answer));
        assert_eq!(Answer::parse(&(line + "\n")), Some(answer));
    }
    for nonsense in
        ["", "taken", "taken ", "taken 0", "taken -1", "taken 1 2", "resumed x", "Taken 1", "maybe 1"]
    {
        assert_eq!(Answer::parse(nonsense), None, "{nonsense}");
    }
}
