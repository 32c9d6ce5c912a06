local member, now = ARGV[1], moment(ARGV[10])
if not live(get(member), now) then
  put(member, {
    asset = ARGV[2], value = ARGV[3], tenant = ARGV[4], digest = ARGV[5], idempotency = ARGV[6], settling = '1',
    nonce_until = after(now, ARGV[11]), balance_until = after(now, ARGV[12]), mined = '-', version = '-',
  }, tonumber(ARGV[11]))
end
return { 'done', '' }
