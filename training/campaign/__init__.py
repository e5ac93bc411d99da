"""Campaigns: many runs planned in one file, made on this machine or through Slurm, and watched in their folders."""

from training.campaign.plan import Campaign, CampaignFile, PlannedRun, load_campaign

__all__ = ["Campaign", "CampaignFile", "PlannedRun", "load_campaign"]
