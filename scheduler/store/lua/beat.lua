-- beat: the executor of an attempt says that it goes on. The worker's own heartbeat is renew.lua.
--
-- KEYS[1]  hash   attempts in flight: id -> state            keys.attempts
-- KEYS[2]  zset   leases: id -> end of lease, ms             keys.leases
-- ARGV     attempt id, token of its claim, ms that it may be silent for (0: any time), ms from its claim to its end
-- Returns  1 | 0 (it ended, was cancelled, or is another claim's)                              O(log n)
--
-- An attempt that may be silent for s was claimed with its hard end s later; here that moves on, and never past its time
-- limit. So what is silent ends as what takes too long does, for renew.lua prolongs no lease past the hard end.
-- Like that one it writes first what needs no room, so it works on a full Redis: the new state is as long as the old.
local state = redis.call("HGET", KEYS[1], ARGV[1])
if not state then return 0 end
local class, lease, timeout, claimed, token, worker =
  string.match(state, "^c|([^|]*)|(%d+)|(%d+)|(%d+)|%d+|([^|]*)|(.*)$")
if token ~= ARGV[2] then return 0 end
local silence = tonumber(ARGV[3])
if silence == 0 then return 1 end
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local hard_end = math.min(now + silence, tonumber(claimed) + tonumber(ARGV[4]))
redis.call("ZREM", KEYS[2], "")
redis.call("HSET", KEYS[1], ARGV[1],
  string.format("c|%s|%s|%s|%s|%.0f|%s|%s", class, lease, timeout, claimed, hard_end, token, worker))
redis.call("ZADD", KEYS[2], "XX", math.min(now + tonumber(lease), hard_end), ARGV[1])
return 1
