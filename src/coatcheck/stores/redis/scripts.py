"""
What has to happen in one step, as scripts that the server runs. Each has one key, so it works in a cluster, too.

Instants come as eight bytes (`records.encode_instant`), durations in whole milliseconds. A script that may be sent
twice, because its answer was lost, finds the number of its own write there and says that it succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1


@dataclass(frozen=True, slots=True)
class Script:
    """A text and the name that the server gives it."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha1(self.text.encode(), usedforsecurity=False).hexdigest())


DONE, GONE, STALE, UNREADABLE = 1, 0, -1, -2

CREATE_SESSION = Script("""
-- row, milliseconds to live, number of this write
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GETRANGE', KEYS[1], 57, 72) == ARGV[3] .. ARGV[3] then return 1 end
return -1
""")

REPLACE_PART = Script("""
-- part, version, data, number of this write
local row = redis.call('GET', KEYS[1])
if not row then return 0 end
if row:byte(1) ~= 1 then return -2 end
local layout = '<BI8I8ddddI4I4c8c8I2I2I2'
local format, claims_version, tokens_version, created, expires, seen, idle, claims_size, tokens_size,
  claims_write, tokens_write, partition_size, sub_size, sid_size = struct.unpack(layout, row)
local claims_at = 80 + partition_size + sub_size + math.max(0, sid_size - 1)
local names = row:sub(80, claims_at - 1)
local claims = row:sub(claims_at, claims_at + claims_size - 1)
local tokens = row:sub(claims_at + claims_size)
local version, write = tonumber(ARGV[2]), ARGV[4]
if ARGV[1] == 'claims' then
  if claims_version == version + 1 and claims_write == write then return 1 end
  if claims_version ~= version then return -1 end
  claims, claims_version, claims_write = ARGV[3], version + 1, write
else
  if tokens_version == version + 1 and tokens_write == write then return 1 end
  if tokens_version ~= version then return -1 end
  tokens, tokens_version, tokens_write = ARGV[3], version + 1, write
end
local header = struct.pack(layout, format, claims_version, tokens_version, created, expires, seen, idle, #claims,
  #tokens, claims_write, tokens_write, partition_size, sub_size, sid_size)
redis.call('SET', KEYS[1], header .. names .. claims .. tokens, 'KEEPTTL')
return 1
""")

TOUCH = Script("""
-- seen at, now, milliseconds that a dead row stays
local header = redis.call('GETRANGE', KEYS[1], 0, 48)
if header == '' then return 0 end
if header:byte(1) ~= 1 then return -2 end
local expires, before, idle = struct.unpack('<ddd', header, 26)
local seen, now = struct.unpack('<d', ARGV[1]), struct.unpack('<d', ARGV[2])
if seen > before then
  redis.call('SETRANGE', KEYS[1], 33, ARGV[1])
  -- Only ever later: a node whose clock is ahead must not shorten the life of a session.
  local left = (math.min(expires, seen + idle) - now) * 1000 + tonumber(ARGV[3])
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', left), 'GT')
end
return 1
""")

ADD_TO_INDEX = Script("""
-- session, milliseconds until it ends at the latest
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
""")

# A lease is a hash: holder, ends (milliseconds on the server's clock), mark, keep (until when the mark is kept).
_LEASE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('HMGET', KEYS[1], 'holder', 'ends', 'mark', 'keep')
local holder, ends, mark, keep = lease[1], tonumber(lease[2] or 0), lease[3], tonumber(lease[4] or 0)
local function write(milliseconds)
  redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'ends', string.format('%.0f', now + milliseconds))
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(milliseconds, keep - now)))
end
"""

ACQUIRE = Script(
    _LEASE
    + """
-- holder, milliseconds
if holder and holder ~= '' and holder ~= ARGV[1] and ends > now then return false end
write(tonumber(ARGV[2]))
return mark or ''
"""
)

MARK_SENT = Script(
    _LEASE
    + """
-- holder, milliseconds, mark, milliseconds to keep it
if holder ~= ARGV[1] or ends <= now then return 0 end
keep = now + tonumber(ARGV[4])
redis.call('HSET', KEYS[1], 'mark', ARGV[3], 'keep', string.format('%.0f', keep))
write(tonumber(ARGV[2]))
return 1
"""
)

EXTEND = Script(
    _LEASE
    + """
-- holder, milliseconds
if holder ~= ARGV[1] or ends <= now then return 0 end
write(tonumber(ARGV[2]))
return 1
"""
)

RELEASE = Script(
    _LEASE
    + """
-- holder, mark (empty: nothing is in doubt)
if holder ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'holder', '', 'ends', '0', 'mark', ARGV[2])
if keep > now then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', keep - now)) end
return 1
"""
)

# An expiring value is a string: version, instant, number of the write, value.
_VALUE = """
local header = redis.call('GETRANGE', KEYS[1], 0, 23)
local version, ends, write = 0, 0, ''
if header ~= '' then version, ends, write = struct.unpack('<I8dc8', header) end
"""

ADD_VALUE = Script(
    _VALUE
    + """
-- now, number of this write, value, milliseconds to live
if write == ARGV[2] then return 1 end
if header ~= '' and struct.unpack('<d', ARGV[1]) < ends then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 1
"""
)

REPLACE_VALUE = Script(
    _VALUE
    + """
-- now, number of this write, value, milliseconds to live, version
if write == ARGV[2] then return 1 end
if header == '' or ends <= struct.unpack('<d', ARGV[1]) or version ~= tonumber(ARGV[5]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 1
"""
)

DISCARD_VALUE = Script(
    _VALUE
    + """
-- now, version (empty: any)
if header == '' or ends <= struct.unpack('<d', ARGV[1]) then return 0 end
if ARGV[2] ~= '' and version ~= tonumber(ARGV[2]) then return 0 end
return redis.call('DEL', KEYS[1])
"""
)
