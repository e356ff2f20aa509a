"""The Lua scripts of `RedisStore`: each is one step for the server.

The keys of a log are a hash (`epoch`; `first` and `last` position; `total` bytes that were ever appended, and
how many of them were `removed`), a stream of entries, each with the `total` up to it and its value, a hash of
producers with their newest batch, and the times when they appended it. Leases are a hash with tokens and
owners, and a sorted set of when they expire. Values are a hash, with a sorted set of their names.

A full server refuses a script whose first writing command needs memory; those that must work then, so that
it gets empty again and groups go on, begin with a command that needs none.
"""

from __future__ import annotations

from hashlib import sha1

NO_LOG = 0
OLD_BATCH = -1

_NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""
_DAY = 86_400_000  # producers and expired leases are forgotten after so many milliseconds
_BOUNDS = "redis.call('HMGET', KEYS[1], 'epoch', 'first', 'last', 'total', 'removed')"


class Script:
    """A script and the digest by which the server remembers it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = sha1(text.encode()).hexdigest()  # noqa: S324 - chosen by Redis


# KEYS: schema. ARGV: version, compatible_since.
OPEN = Script("""
if ARGV[3] == '1' and redis.call('EXISTS', KEYS[1]) == 0 then
    return {false, false}
end
if redis.call('HSETNX', KEYS[1], 'version', ARGV[1]) == 1 then
    redis.call('HSET', KEYS[1], 'compatible_since', ARGV[2])
end
return redis.call('HMGET', KEYS[1], 'version', 'compatible_since')
""")

# KEYS: log, logs, entries, producers, seen, schema. ARGV: name, epoch, version, compatible_since.
CREATE_LOG = Script(f"""
if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('DEL', KEYS[3], KEYS[4], KEYS[5])
    redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'first', 1, 'last', 0, 'total', 0, 'removed', 0)
    redis.call('HSETNX', KEYS[6], 'version', ARGV[3])
    redis.call('HSETNX', KEYS[6], 'compatible_since', ARGV[4])
end
redis.call('SADD', KEYS[2], ARGV[1])
return {_BOUNDS}
""")

# KEYS: log.
BOUNDS = Script(f"return redis.call('EXISTS', KEYS[1]) == 1 and {_BOUNDS}")

# KEYS: log. ARGV: the epoch to replace, the new epoch.
RENEW_EPOCH = Script(f"""
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch == ARGV[1] then
    redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
end
return epoch and {_BOUNDS}
""")

# KEYS: logs.
LOGS = Script("return redis.call('SMEMBERS', KEYS[1])")

# KEYS: log, entries, producers, seen. ARGV: producer, number, entries.
APPEND = Script(f"""
local last, total = unpack(redis.call('HMGET', KEYS[1], 'last', 'total'))
if not last then
    return {NO_LOG}
end
local newest = redis.call('HGET', KEYS[3], ARGV[1])
if newest then
    local number, position = string.match(newest, '^(%d+) (%d+)$')
    if number == ARGV[2] then
        return tonumber(position)
    elseif tonumber(number) > tonumber(ARGV[2]) then
        return {OLD_BATCH}
    end
end
{_NOW}
local time = string.format('-%.0f', now)
local first = last + 1
last, total = tonumber(last), tonumber(total)
for index = 3, #ARGV do
    last = last + 1
    total = total + #ARGV[index]
    redis.call('XADD', KEYS[2], string.format('%.0f', last) .. time,
        'total', string.format('%.0f', total), 'value', ARGV[index])
end
redis.call('HSET', KEYS[1], 'last', last, 'total', total)
redis.call('HSET', KEYS[3], ARGV[1], string.format('%s %.0f', ARGV[2], first))
redis.call('ZADD', KEYS[4], now, ARGV[1])
for _, producer in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now - {_DAY}, 'LIMIT', 0, 10)) do
    redis.call('HDEL', KEYS[3], producer)
    redis.call('ZREM', KEYS[4], producer)
end
return first
""")

_ENTRY = """
-- The first entry at or after a position: its position, time, bytes up to it, and size.
local function entry(key, position)
    local found = redis.call('XRANGE', key, string.format('%.0f-0', position), '+', 'COUNT', 1)[1]
    if found then
        local at, time = string.match(found[1], '^(%d+)-(%d+)$')
        return tonumber(at), tonumber(time), tonumber(found[2][2]), #found[2][4]
    end
end
"""

# KEYS: log, entries. ARGV: after, limit, bytes. Returns "position-time-size ..." and all values as one, which
# a client reads in a third of the time of separate ones. To find out how many entries fit, it looks at as few
# as possible: each look copies a value.
READ = Script(f"""
{_ENTRY}
local last, newest = unpack(redis.call('HMGET', KEYS[1], 'last', 'total'))
local first, _, total, size = entry(KEYS[2], ARGV[1] + 1)
if not first or not last then
    return {{}}
end
local room = total - size + ARGV[3]  -- the total up to which entries are returned
local low, high = first, math.min(first + ARGV[2], last + 1)  -- low is returned, high is not
if tonumber(newest) <= room then
    low = high - 1
end
local mean = size
while high - low > 1 and total < room do
    local guess = math.min(low + math.max(1, math.floor((room - total) / mean)), high - 1)
    local _, _, bytes = entry(KEYS[2], guess)
    if bytes and bytes <= room then
        low, total = guess, bytes
        mean = (total - room + ARGV[3]) / (low - first + 1)
    else  -- the next guess is at most halfway
        high = guess
        mean = math.max((bytes or room) - total, 2 * (room - total)) / (guess - low)
    end
end
local heads, values = {{}}, {{}}
local first_id, low_id = string.format('%.0f-0', first), string.format('%.0f', low)
for index, found in ipairs(redis.call('XRANGE', KEYS[2], first_id, low_id)) do
    local value = found[2][4]
    heads[index] = found[1] .. '-' .. #value
    values[index] = value
end
return {{table.concat(heads, ' '), table.concat(values)}}
""")

# KEYS: log, entries. ARGV: entries, bytes and milliseconds to keep, keep_after, entries to remove at most.
TRIM = Script(f"""
{_NOW}
{_ENTRY}
local first, last, total = unpack(redis.call('HMGET', KEYS[1], 'first', 'last', 'total'))
if not last then
    return 0
end
first, last = tonumber(first), tonumber(last)
local function is_kept(position)
    local at, time, bytes, size = entry(KEYS[2], position)
    return not at or (total - bytes + size <= tonumber(ARGV[2]) and now - time <= tonumber(ARGV[3]))
end
local high = math.min(last, tonumber(ARGV[4]), first + ARGV[5] - 1) + 1  -- the first that is kept in any case
local low = math.min(math.max(first, last + 1 - ARGV[1]), high)
local middle = low
while low < high do
    if is_kept(middle) then
        high = middle
    else
        low = middle + 1
    end
    middle = math.floor((low + high) / 2)
end
if low <= first then
    return 0
end
redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f-0', low))
local at, _, bytes, size = entry(KEYS[2], low)
redis.call('HSET', KEYS[1], 'first', low, 'removed', at and string.format('%.0f', bytes - size) or total)
return low - first
""")

# KEYS: logs. Returns the last position of each.
LAST = Script("""
local found = {}
for index, log in ipairs(KEYS) do
    found[index] = redis.call('HGET', log, 'last') or '0'
end
return found
""")

# KEYS: the bell of this process. ARGV: how often it rang.
RING = Script("""
redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
redis.call('XADD', KEYS[1], 'MAXLEN', 1, ARGV[1], 'ring', 1)
redis.call('EXPIRE', KEYS[1], 60)
""")

# KEYS: leases, expiry, token. ARGV: name, owner, milliseconds. The token is at least the time, so that it
# grows even if the server lost its data.
ACQUIRE = Script(f"""
{_NOW}
local held = redis.call('HGET', KEYS[1], ARGV[1])
local expires = redis.call('ZSCORE', KEYS[2], ARGV[1])
local token
if held and expires and tonumber(expires) > now then
    local number, owner = string.match(held, '^(%d+) (.*)$')
    if owner ~= ARGV[2] then
        return 0
    end
    token = number
end
redis.call('ZREM', KEYS[2], ARGV[1])
if not token then
    token = string.format('%.0f', math.max(now, (redis.call('GET', KEYS[3]) or 0) + 1))
    redis.call('SET', KEYS[3], token)
    redis.call('HSET', KEYS[1], ARGV[1], token .. ' ' .. ARGV[2])
end
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - {_DAY}, 'LIMIT', 0, 10)) do
    redis.call('HDEL', KEYS[1], name)
    redis.call('ZREM', KEYS[2], name)
end
return tonumber(token)
""")

# KEYS: leases, expiry. ARGV: name, token and owner, milliseconds.
RENEW = Script(f"""
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
    return 0
end
{_NOW}
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
return 1
""")

# KEYS: leases, expiry. ARGV: name, token and owner.
RELEASE = Script("""
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('ZREM', KEYS[2], ARGV[1])
end
""")

# KEYS: leases, expiry. ARGV: prefix. Returns names, each with its token and owner.
LEASES = Script(f"""
{_NOW}
local found = {{}}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], string.format('(%.0f', now), '+inf')) do
    local held = redis.call('HGET', KEYS[1], name)
    if held and string.sub(name, 1, #ARGV[1]) == ARGV[1] then
        found[#found + 1] = name
        found[#found + 1] = held
    end
end
return found
""")

# KEYS: values, names. ARGV: prefix. Returns names, each with its value.
LOAD = Script("""
local found = {}
for _, name in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], '[' .. ARGV[1], '[' .. ARGV[1] .. '\\255')) do
    local value = redis.call('HGET', KEYS[1], name)
    if value then
        found[#found + 1] = name
        found[#found + 1] = value
    end
end
return found
""")

# KEYS: leases, values, names. ARGV: name, token and owner of the lease, how many values are removed, their
# names, and the others, each with its name before it.
SAVE = Script("""
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
    return 0
end
redis.call('HDEL', KEYS[2], '')
for index = 4, 3 + ARGV[3] do
    redis.call('HDEL', KEYS[2], ARGV[index])
    redis.call('ZREM', KEYS[3], ARGV[index])
end
for index = 4 + ARGV[3], #ARGV, 2 do
    redis.call('HSET', KEYS[2], ARGV[index], ARGV[index + 1])
    redis.call('ZADD', KEYS[3], 0, ARGV[index])
end
return 1
""")
