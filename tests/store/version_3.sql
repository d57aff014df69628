-- What a walrusd of schema version 3 left when it was killed: session 3 was being told a story, 4 is a fork of 2.
PRAGMA application_id = 1463897170;
PRAGMA user_version = 3;
BEGIN TRANSACTION;
CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "counter" VALUES('session_given',4);
INSERT INTO "counter" VALUES('session_open',3);
CREATE TABLE created_with (
    key TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    session INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "created_with" VALUES('first',X'047D3907386F1BEA916604DCA82919BEC4FB0C07E5A561994C6AFE788CF5C1CD',1);
CREATE TABLE draft (
    session INTEGER PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;
INSERT INTO "draft" VALUES(3,CAST('{"turn":1,"round":1,"text":"Once upon a","thinking":"","model":"","suspended":false}' AS BLOB));
CREATE TABLE event (
    "offset" INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
INSERT INTO "event" VALUES(1,1,1,CAST('{"type":"session_created","ts":1800000000.0,"session":1,"turn":null,"agent":"walrus","created_by":"","title":"","parent":null}' AS BLOB));
INSERT INTO "event" VALUES(2,1,2,CAST('{"type":"user_message","ts":1800000001.0,"session":1,"turn":1,"content":"Hi","sender":"","key":"hi","kind":"message","timeout_s":null}' AS BLOB));
INSERT INTO "event" VALUES(3,1,3,CAST('{"type":"assistant_message","ts":1800000003.0,"session":1,"turn":1,"round":1,"content":"Hello.","thinking":"","calls":[],"finish":"stop","model":"fake","provider":"fake","usage":{"input":0,"output":0,"cache_read":0,"cache_write":0,"reasoning":0},"cost_usd":0.0,"duration_ms":0,"opaque":null}' AS BLOB));
INSERT INTO "event" VALUES(4,1,4,CAST('{"type":"done","ts":1800000003.0,"session":1,"turn":1,"stop_reason":"text_response","error":null,"text":"Hello.","rounds":1,"usage":{"input":0,"output":0,"cache_read":0,"cache_write":0,"reasoning":0},"cost_usd":0.0,"duration_ms":1,"messages":2}' AS BLOB));
INSERT INTO "event" VALUES(5,2,1,CAST('{"type":"session_created","ts":1800000004.0,"session":2,"turn":null,"agent":"walrus","created_by":"","title":"","parent":null}' AS BLOB));
INSERT INTO "event" VALUES(6,2,2,CAST('{"type":"user_message","ts":1800000005.0,"session":2,"turn":1,"content":"Go","sender":"","key":null,"kind":"message","timeout_s":null}' AS BLOB));
INSERT INTO "event" VALUES(7,2,3,CAST('{"type":"assistant_message","ts":1800000007.0,"session":2,"turn":1,"round":1,"content":"Bye.","thinking":"","calls":[],"finish":"stop","model":"fake","provider":"fake","usage":{"input":0,"output":0,"cache_read":0,"cache_write":0,"reasoning":0},"cost_usd":0.0,"duration_ms":0,"opaque":null}' AS BLOB));
INSERT INTO "event" VALUES(8,2,4,CAST('{"type":"done","ts":1800000007.0,"session":2,"turn":1,"stop_reason":"text_response","error":null,"text":"Bye.","rounds":1,"usage":{"input":0,"output":0,"cache_read":0,"cache_write":0,"reasoning":0},"cost_usd":0.0,"duration_ms":1,"messages":2}' AS BLOB));
INSERT INTO "event" VALUES(9,2,5,CAST('{"type":"session_closed","ts":1800000008.0,"session":2,"turn":null,"by":""}' AS BLOB));
INSERT INTO "event" VALUES(10,3,1,CAST('{"type":"session_created","ts":1800000009.0,"session":3,"turn":null,"agent":"walrus","created_by":"ann","title":"","parent":null}' AS BLOB));
INSERT INTO "event" VALUES(11,3,2,CAST('{"type":"user_message","ts":1800000010.0,"session":3,"turn":1,"content":"Tell me a story","sender":"","key":"story","kind":"message","timeout_s":null}' AS BLOB));
INSERT INTO "event" VALUES(12,0,1,CAST('{"type":"tick","ts":1800000007.0,"session":null,"turn":null,"tick":1,"schedule":"heartbeat:walrus","agent":"walrus","slot":1800000004.0,"by":"clock","outcome":"ran","reason":"","count":1,"ran":{"session":2,"turn":1,"cost_usd":0.0},"text":"Bye.","news":true,"started_at":1800000004.0,"ended_at":1800000007.0}' AS BLOB));
INSERT INTO "event" VALUES(13,4,1,CAST('{"type":"session_created","ts":1800000015.0,"session":4,"turn":null,"agent":"walrus","created_by":"","title":"","parent":{"session":2,"seq":5,"messages":2}}' AS BLOB));
INSERT INTO "event" VALUES(14,4,2,CAST('{"type":"checkpoint_created","ts":1800000016.0,"session":4,"turn":null,"name":"here","at":1}' AS BLOB));
INSERT INTO "event" VALUES(15,4,3,CAST('{"type":"rewound","ts":1800000017.0,"session":4,"turn":null,"to":1,"messages":2}' AS BLOB));
CREATE TABLE inbox (
    session INTEGER NOT NULL,
    place INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (session, place)
) STRICT, WITHOUT ROWID;
INSERT INTO "inbox" VALUES(3,1,'message',CAST('{"place":1,"kind":"message","content":"And then?","sender":"ann","key":null,"timeout_s":null}' AS BLOB));
CREATE TABLE ledger (
    schedule TEXT PRIMARY KEY,
    ticks INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "ledger" VALUES('heartbeat:walrus',1);
CREATE TABLE output (
    ref TEXT PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;
INSERT INTO "output" VALUES('r1',CAST('a long output' AS BLOB));
CREATE TABLE output_of (
    session INTEGER NOT NULL,
    ref TEXT NOT NULL,
    PRIMARY KEY (session, ref)
) STRICT, WITHOUT ROWID;
INSERT INTO "output_of" VALUES(1,'r1');
CREATE VIRTUAL TABLE said USING fts5 (text, content='', contentless_delete=1, tokenize='unicode61 remove_diacritics 2');
DELETE FROM "said_config";
INSERT INTO "said_config" VALUES('version',4);
DELETE FROM "said_data";
INSERT INTO "said_data" VALUES(1,X'0508');
INSERT INTO "said_data" VALUES(10,X'00000000FF000001010505000501010101010000010201010202000001030101030300000104010104040000010501010505000001');
INSERT INTO "said_data" VALUES(137438953473,X'0000000B0330686902020204');
INSERT INTO "said_data" VALUES(274877906945,X'0000000E063068656C6C6F03020204');
INSERT INTO "said_data" VALUES(412316860417,X'0000000B0330676F06020204');
INSERT INTO "said_data" VALUES(549755813889,X'0000000C043062796507020204');
INSERT INTO "said_data" VALUES(687194767361,X'000000240230610B020401026D650B0203010573746F72790B0205010474656C6C0B02020406070A');
DELETE FROM "said_docsize";
INSERT INTO "said_docsize" VALUES(2,X'01',1);
INSERT INTO "said_docsize" VALUES(3,X'01',2);
INSERT INTO "said_docsize" VALUES(6,X'01',3);
INSERT INTO "said_docsize" VALUES(7,X'01',4);
INSERT INTO "said_docsize" VALUES(11,X'04',5);
DELETE FROM "said_idx";
INSERT INTO "said_idx" VALUES(1,X'',2);
INSERT INTO "said_idx" VALUES(2,X'',2);
INSERT INTO "said_idx" VALUES(3,X'',2);
INSERT INTO "said_idx" VALUES(4,X'',2);
INSERT INTO "said_idx" VALUES(5,X'',2);
CREATE TABLE schedule (
    name TEXT PRIMARY KEY,
    body BLOB NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "schedule" VALUES('heartbeat:walrus',CAST('{"name":"heartbeat:walrus","next_slot":1800003604.0,"paused":false,"failures":0,"closed_until":null,"seen":"exit 0","session":null}' AS BLOB));
CREATE TABLE sent (
    session INTEGER NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    turn INTEGER,
    PRIMARY KEY (session, key)
) STRICT, WITHOUT ROWID;
INSERT INTO "sent" VALUES(1,'hi',X'FDDA60CB3869B17EDE5FDA4D458C15689ED87C049E7B349AC86D5EBBCF882731',1);
INSERT INTO "sent" VALUES(3,'story',X'CBD869F268482D4CEB1F95698B803CC31FC01150E2A0D86DEAC39623036E8E07',1);
CREATE TABLE session (
    id INTEGER PRIMARY KEY,
    agent TEXT NOT NULL,
    state TEXT NOT NULL,
    in_turn INTEGER NOT NULL,
    outline BLOB NOT NULL
) STRICT;
INSERT INTO "session" VALUES(1,'walrus','idle',0,CAST('{"id":1,"state":"idle","agent":"walrus","created_at":1800000000.0,"updated_at":1800000003.0,"last_seq":4,"turns":1,"messages":2,"usage":{"input":0,"output":0,"cache_read":0,"cache_write":0,"reasoning":0},"cost_usd":0.0,"stop_reason":"text_response"}' AS BLOB));
INSERT INTO "session" VALUES(2,'walrus','closed',0,CAST('{"id":2,"state":"closed","agent":"walrus","created_at":1800000004.0,"updated_at":1800000008.0,"last_seq":5,"turns":1,"messages":2,"usage":{"input":0,"output":0,"cache_read":0,"cache_write":0,"reasoning":0},"cost_usd":0.0,"stop_reason":"text_response"}' AS BLOB));
INSERT INTO "session" VALUES(3,'walrus','processing',1,CAST('{"id":3,"state":"processing","agent":"walrus","created_by":"ann","created_at":1800000009.0,"updated_at":1800000010.0,"last_seq":2,"turns":1,"messages":1,"turn":{"number":1,"first_seq":2,"started_at":1800000010.0}}' AS BLOB));
INSERT INTO "session" VALUES(4,'walrus','idle',0,CAST('{"id":4,"state":"idle","agent":"walrus","parent":{"session":2,"seq":5,"messages":2},"created_at":1800000015.0,"updated_at":1800000017.0,"last_seq":3,"messages":2}' AS BLOB));
CREATE TABLE tick (
    tick INTEGER PRIMARY KEY,
    schedule TEXT NOT NULL,
    running INTEGER NOT NULL,
    news INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
INSERT INTO "tick" VALUES(1,'heartbeat:walrus',0,1,CAST('{"type":"tick","ts":1800000007.0,"session":null,"turn":null,"tick":1,"schedule":"heartbeat:walrus","agent":"walrus","slot":1800000004.0,"by":"clock","outcome":"ran","reason":"","count":1,"ran":{"session":2,"turn":1,"cost_usd":0.0},"text":"Bye.","news":true,"started_at":1800000004.0,"ended_at":1800000007.0}' AS BLOB));
CREATE TABLE turn (
    session INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER,
    PRIMARY KEY (session, turn)
) STRICT, WITHOUT ROWID;
INSERT INTO "turn" VALUES(1,1,2,4);
INSERT INTO "turn" VALUES(2,1,2,4);
INSERT INTO "turn" VALUES(3,1,2,NULL);
CREATE UNIQUE INDEX event_in_session ON event (session, seq);
CREATE INDEX session_by_state ON session (state);
CREATE INDEX session_by_agent ON session (agent, state);
CREATE INDEX session_in_turn ON session (id) WHERE in_turn;
CREATE INDEX tick_of_schedule ON tick (schedule);
CREATE INDEX tick_news ON tick (tick) WHERE news;
CREATE INDEX tick_news_of_schedule ON tick (schedule) WHERE news;
CREATE INDEX tick_running ON tick (tick) WHERE running;
CREATE TRIGGER session_opened AFTER INSERT ON session WHEN new.state <> 'closed' BEGIN
    UPDATE counter SET value = value + 1 WHERE name = 'session_open';
END;
CREATE TRIGGER session_closed AFTER UPDATE OF state ON session
WHEN (new.state = 'closed') <> (old.state = 'closed') BEGIN
    UPDATE counter SET value = value + iif(new.state = 'closed', -1, 1) WHERE name = 'session_open';
END;
CREATE TRIGGER tick_written AFTER INSERT ON tick BEGIN
    INSERT INTO ledger VALUES (new.schedule, 1) ON CONFLICT (schedule) DO UPDATE SET ticks = ticks + 1;
END;
CREATE TRIGGER tick_forgotten AFTER DELETE ON tick BEGIN
    UPDATE ledger SET ticks = ticks - 1 WHERE schedule = old.schedule;
END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('event',15);
COMMIT;
