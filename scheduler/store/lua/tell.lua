-- tell: whoever owns a shard, or takes it next, is to know that commits of it are missing.
--
-- KEYS[1]  hash     what is known of rewinds                 keys.rewound
-- KEYS[2]  stream   the shard's inbox                        keys.inbox
-- ARGV     number of commits that the caller knows of
-- Returns  1 when that was news, else 0                      O(1)
if tonumber(redis.call("HGET", KEYS[1], "known") or "0") >= tonumber(ARGV[1]) then return 0 end
redis.call("HSET", KEYS[1], "known", ARGV[1])
redis.call("XADD", KEYS[2], "*", "rewound", ARGV[1])
return 1
