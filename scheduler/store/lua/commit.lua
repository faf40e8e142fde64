-- commit: apply the writes of one batch, whole, if the caller still owns the shard.
--
-- KEYS[1]  string   the shard's token                        keys.epoch
-- KEYS[2]  string   number of commits                        keys.commits
-- KEYS[3…] the keys that the writes name, all of the same shard; but for queues of a broker that is this very Redis
-- ARGV     token, number of commits that the caller expects or "", then for each write: command, number of its key
--          in KEYS, count of arguments, arguments
-- Returns  "committed" | "fenced" | "overtaken" | "rewound" (commits that the caller was promised are missing)
--          O(arguments)
--
-- Everything is checked before the first write, for Redis does not roll back. A write "STILL" only checks: that fields
-- of a hash are as the decision found them, else the commit is "overtaken". "LEAVE" takes a field off a hash, and what
-- it held off the sum in the field "all"; done again it changes nothing.
local allowed = {
  HSET = "hash", HDEL = "hash", HINCRBY = "hash", ZADD = "zset", ZREM = "zset", XADD = "stream", XDEL = "stream",
  RPUSH = "list", LPUSH = "list", LTRIM = "list", PERSIST = "any", UNLINK = "any", STILL = "hash", LEAVE = "hash",
}
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return "fenced" end
if ARGV[2] ~= "" then
  local found, wanted = tonumber(redis.call("GET", KEYS[2]) or "0"), tonumber(ARGV[2])
  if found ~= wanted then return found < wanted and "rewound" or "fenced" end
end
local at = 3
while at <= #ARGV do
  local command, key, count = ARGV[at], KEYS[tonumber(ARGV[at + 1])], tonumber(ARGV[at + 2])
  local wants = allowed[command]
  if not wants then return redis.error_reply("CELERIAC commit: no such write: " .. command) end
  if wants ~= "any" then
    local found = redis.call("TYPE", key).ok
    if found ~= "none" and found ~= wants then
      return redis.error_reply("CELERIAC commit: " .. key .. " is a " .. found .. ", expected a " .. wants)
    end
  end
  if command == "STILL" then
    for i = at + 3, at + 2 + count, 2 do
      if redis.call("HGET", key, ARGV[i]) ~= ARGV[i + 1] then return "overtaken" end
    end
  end
  at = at + 3 + count
end
redis.call("INCR", KEYS[2])
at = 3
while at <= #ARGV do
  local count = tonumber(ARGV[at + 2])
  if ARGV[at] == "LEAVE" then
    local key = KEYS[tonumber(ARGV[at + 1])]
    local held = redis.call("HGET", key, ARGV[at + 3])
    if held then
      redis.call("HDEL", key, ARGV[at + 3])
      redis.call("HINCRBY", key, "all", "-" .. held)
    end
  elseif ARGV[at] ~= "STILL" then
    redis.call(ARGV[at], KEYS[tonumber(ARGV[at + 1])], unpack(ARGV, at + 3, at + 2 + count))
  end
  at = at + 3 + count
end
return "committed"
