local member, asset, value, tenant, digest = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local idempotency, purpose, balance = ARGV[6], ARGV[7], ARGV[8]
local read_at, now = tonumber(ARGV[9]), moment(ARGV[10])
local nonce_until, balance_until, version = after(now, ARGV[11]), after(now, ARGV[12]), ARGV[13]
local ttl, present = tonumber(ARGV[11]), after(now, 0)

-- What ended since the last look.
for _, ended in ipairs(redis.call('ZRANGEBYSCORE', balance_key(asset), '-inf', present)) do
  uncount(ended, get(ended) or { asset = asset, value = ZERO })
end
for _, past in ipairs(redis.call('ZRANGEBYSCORE', mined_key(asset), '-inf', read_at - 64)) do
  remove(past)
end
for _, ended in ipairs(redis.call('ZRANGEBYSCORE', nonces, '-inf', present, 'LIMIT', 0, 256)) do
  local hold = get(ended)
  if not hold then redis.call('ZREM', nonces, ended) elseif hold.mined == '-' then remove(ended) end
end

local own = get(member)
local function held_by_others()
  local held = sum(asset)
  if own and own.asset == asset and redis.call('ZSCORE', balance_key(asset), member) then
    held = subtract(held, own.value)
  end
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', mined_key(asset), '(' .. ARGV[9], '+inf')) do
    if other ~= member then held = add(held, get(other).value) end
  end
  return held
end

if not live(own, now) then
  local held = held_by_others()
  if exceeds(add(held, value), balance) then return { 'insufficient', held } end
  put(member, {
    asset = asset, value = value, tenant = tenant, digest = digest, idempotency = idempotency,
    settling = purpose == 'settle' and '1' or '0', nonce_until = nonce_until, balance_until = balance_until, mined = '-',
    version = version,
  }, ttl)
  return { 'granted', version }
end

local same_payment = own.tenant == tenant and own.digest == digest
local same_request = purpose ~= 'strict' or (idempotency ~= '-' and own.idempotency == idempotency)
if not (same_payment and same_request) then return { 'held', '' } end
if own.mined == '-' then
  if tonumber(own.balance_until) <= now then
    local held = held_by_others()
    if exceeds(add(held, value), balance) then return { 'insufficient', held } end
  end
  own.nonce_until = later(own.nonce_until, nonce_until)
  own.balance_until = later(own.balance_until, balance_until)
end
if purpose == 'settle' then own.settling = '1' end
own.version = version
put(member, own, ttl)
return { 'renewed', '' }
