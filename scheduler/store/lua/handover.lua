-- handover: a worker gives up an attempt that it holds, because another delivery of the same id will run it.
--
-- KEYS[1]  hash   attempts in flight: id -> state            keys.attempts
-- KEYS[2]  zset   leases: id -> end of lease, ms             keys.leases
-- ARGV     attempt id, token of the claim, "requeued" | "replaced"
-- Returns  {"handed over", end of lease ms} | {"stale"}                                        O(log n)
--
-- The attempt is "sent" again, so the next claim is granted whatever its token. A requeued message is back in
-- the queue at once, so it keeps one lease; a replacement may be several tasks long, so it keeps the attempt's timeout.
local state = redis.call("HGET", KEYS[1], ARGV[1])
if not state then return {"stale"} end
local class, lease, timeout, holder = string.match(state, "^c|([^|]*)|(%d+)|(%d+)|%d+|%d+|([^|]*)|")
if holder ~= ARGV[2] then return {"stale"} end
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease_end = now + tonumber(ARGV[3] == "replaced" and timeout or lease)
redis.call("HSET", KEYS[1], ARGV[1], string.format("s|%s|%s|%s", class, lease, timeout))
redis.call("ZADD", KEYS[2], lease_end, ARGV[1])
return {"handed over", lease_end}
