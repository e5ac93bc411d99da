"""Campaigns: many runs planned in one file, made on this machine or through Slurm, and watched in their folders."""

from training.campaign.campaign_file import CampaignFile
from training.campaign.planned_runs import Campaign, PlannedRun, load_campaign

__all__ = ["Campaign", "CampaignFile", "PlannedRun", "load_campaign"]
